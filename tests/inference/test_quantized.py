"""ENGINE_QUANTIZE=int8: matrices in eight bits, and everything else as it was."""

import copy
import platform

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from config import Config
from engine import Engine
from inference.cache.kv_cache import KVCache
from inference.decoders.native.decoder import NativeDecoder, quantized
from inference.tensor_thread import on_tensor_thread
from inference.weights.checkpoint import Checkpoint
from interface.errors import UnsupportedModel
from tests.support.native_models import (
    CONTEXT,
    INSTRUCTIONS,
    LENGTH,
    MODELS,
    PROMPTS,
    STEPS,
    VOCABULARY,
    engine_of,
    logits_in_steps,
    model_named,
    native,
)
from tests.support.tiny_models import Inbox, byte_tokenizer, random_model, reference_output, run_until_idle, submit


def rounded(model: PreTrainedModel) -> PreTrainedModel:
    """The model with the weights that eight bits can say: rounding them once more changes nothing."""
    for part in model.modules():
        if isinstance(part, nn.Linear):
            numbers, scales = quantized(part.weight.data)
            part.weight.data = numbers * scales[:, None]
    return model


def bytes_held(model: PreTrainedModel, is_quantized: bool) -> int:
    """By a decoder for it, without its cache."""
    cache = KVCache(1, CONTEXT)
    decoder = native(model, cache, is_quantized)
    return sum(tensor.numel() * tensor.element_size() for tensor in decoder._held) - cache.bytes


@pytest.mark.parametrize(
    ("name", "instructions"),
    [
        *((name, "this machine's") for name in MODELS),
        *(("qwen3", other) for other in INSTRUCTIONS if other != "this machine's"),
    ],
)
def test_it_computes_what_the_rounded_model_says(name: str, instructions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if instructions != "this machine's" and platform.machine() != "x86_64":
        pytest.skip("these instructions are those of x86-64")
    monkeypatch.setenv("CXXFLAGS", INSTRUCTIONS[instructions])
    token_ids = torch.randint(VOCABULARY, (200,), generator=torch.Generator().manual_seed(2)).tolist()
    # Up to 24 rows it is widened at each reading, from there on once.
    with torch.inference_mode():
        model = rounded(model_named(name))
        exact = model(torch.tensor([token_ids])).logits[0]
        found_exact = on_tensor_thread(lambda: logits_in_steps(model, token_ids, STEPS, is_quantized=True))
        half = nn.Module.to(copy.deepcopy(model), torch.bfloat16)
        own = half(torch.tensor([token_ids])).logits[0].float()
        found = on_tensor_thread(lambda: logits_in_steps(half, token_ids, STEPS, is_quantized=True))
    largest = exact.abs().max()
    assert ((found_exact - exact).abs().max() / largest).item() < 1e-4
    assert ((found - exact).abs().max() / (own - exact).abs().max()).item() < 1.5


def test_rounding_is_to_the_nearest_of_255_steps() -> None:
    weight = torch.tensor([[0.5, -1.27, 0.004], [0.0, 0.0, 0.0]])
    numbers, scales = quantized(weight)
    assert numbers.tolist() == [[50, -127, 0], [0, 0, 0]]
    assert (numbers * scales[:, None] - weight).abs().max().item() <= 0.005


def test_matrices_take_half_of_the_memory_that_they_take_in_bfloat16() -> None:
    model = nn.Module.to(model_named("llama"), torch.bfloat16)
    matrices = 2 * sum(part.weight.numel() for part in model.modules() if isinstance(part, nn.Linear))
    saved = bytes_held(model, is_quantized=False) - bytes_held(model, is_quantized=True)
    assert saved > 0.4 * matrices


def test_an_engine_serves_it_and_compiles_without_being_told_to() -> None:
    expected = {
        p: reference_output(rounded(model_named("llama")), byte_tokenizer()(p)["input_ids"], LENGTH) for p in PROMPTS
    }
    checkpoint = Checkpoint(rounded(model_named("llama")), byte_tokenizer(), CONTEXT, ())
    engine, inbox = Engine(checkpoint, Config(quantize="int8", max_streams=3)), Inbox()
    probes = {submit(engine, inbox, prompt, max_tokens=LENGTH, temperature=0): prompt for prompt in PROMPTS}
    run_until_idle(engine)
    for probe, prompt in probes.items():
        assert inbox.token_ids(probe) == expected[prompt], prompt


def test_where_there_can_be_none_it_says_why_and_does_not_serve_the_whole_model_instead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = Checkpoint(random_model("gpt2"), byte_tokenizer(), CONTEXT, ())
    with pytest.raises(UnsupportedModel, match=r"int8.*GPT2LMHeadModel is none of LlamaForCausalLM"):
        Engine(checkpoint, Config(quantize="int8"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UnsupportedModel, match=r"int8.*found no C\+\+ compiler"):
        engine_of(model_named("llama"), quantize="int8")


def test_a_model_that_eight_bits_spoil_is_refused_with_that_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = NativeDecoder.forward
    monkeypatch.setattr(NativeDecoder, "forward", lambda self, batch: forward(self, batch) * 1.5)
    with pytest.raises(UnsupportedModel, match=r"eight bits LlamaForCausalLM gives .*without ENGINE_QUANTIZE"):
        engine_of(model_named("llama"), quantize="int8")
