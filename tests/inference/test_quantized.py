"""ENGINE_QUANTIZE=int8 and int4: matrices are rounded in groups to few bits, and nothing else changes."""

import copy
import platform
from functools import partial

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, PreTrainedModel

from config import Config
from engine import Engine
from inference.cache.kv_cache import KVCache
from inference.decoders.native.decoder import NativeDecoder
from inference.tensor_thread import on_tensor_thread
from inference.weights.checkpoint import Checkpoint
from inference.weights.quantized import quantize
from interface.errors import UnsupportedModel
from tests.support.native_models import (
    CONTEXT,
    INSTRUCTIONS,
    LENGTH,
    PROMPTS,
    SHAPE,
    STEPS,
    VOCABULARY,
    decoded_in_steps,
    engine_of,
    logits_in_steps,
    model_named,
    native,
)
from tests.support.tiny_models import (
    Inbox,
    byte_tokenizer,
    model_of,
    random_model,
    reference_output,
    run_until_idle,
    submit,
)

KINDS = ["int8", "int4"]


def rounded(model: PreTrainedModel, kind: str) -> PreTrainedModel:
    """The model with its weights rounded to so few bits."""
    model = copy.deepcopy(model)
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear):
            # In place of the parameter, so that a tied embedding stays as it was.
            part.weight = nn.Parameter(quantize(part.weight.data, "int8" if name == "lm_head" else kind).dequantized())
    return model


def bytes_held(model: PreTrainedModel, kind: str | None) -> int:
    """By a decoder for it, without its cache."""
    cache = KVCache(1, CONTEXT)
    return sum(held.nbytes for held in native(model, cache, kind)._packer.held)


@pytest.mark.parametrize(
    ("name", "kind", "instructions"),
    [
        ("llama, one group", "int8", "this machine's"),
        ("llama, tied", "int4", "this machine's"),
        ("qwen2", "int4", "this machine's"),
        ("qwen3", "int8", "this machine's"),
        *(("qwen3", "int4", other) for other in INSTRUCTIONS if other != "this machine's"),
    ],
)
def test_in_float32_it_computes_what_the_rounded_model_says(
    name: str, kind: str, instructions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if instructions != "this machine's" and platform.machine() != "x86_64":
        pytest.skip("these instructions are those of x86-64")
    monkeypatch.setenv("CXXFLAGS", INSTRUCTIONS[instructions])
    token_ids = torch.randint(VOCABULARY, (200,), generator=torch.Generator().manual_seed(2)).tolist()
    model = model_named(name)
    with torch.inference_mode():
        exact = rounded(model, kind)(torch.tensor([token_ids])).logits[0]
        found = on_tensor_thread(lambda: logits_in_steps(model, token_ids, STEPS, kind))
    assert ((found - exact).abs().max() / exact.abs().max()).item() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama, tied", "qwen3"])
def test_in_bfloat16_it_is_about_as_exact_as_the_models_own_bfloat16(name: str, kind: str) -> None:
    token_ids = torch.randint(VOCABULARY, (200,), generator=torch.Generator().manual_seed(2)).tolist()
    model = nn.Module.to(model_named(name), torch.bfloat16)
    with torch.inference_mode():
        exact_model = rounded(nn.Module.float(copy.deepcopy(model)), kind)
        exact = exact_model(torch.tensor([token_ids])).logits[0]
        own = nn.Module.to(exact_model, torch.bfloat16)(torch.tensor([token_ids])).logits[0].float()
        found = on_tensor_thread(lambda: logits_in_steps(model, token_ids, STEPS, kind))
    # Inputs of products have eight bits there, so it is a little farther.
    assert ((found - exact).norm() / (own - exact).norm()).item() < 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_token_has_the_same_products_in_any_step(name: str, kind: str) -> None:
    """Of a text's first token: attention has nothing to add up there, so what is left are products and norms."""
    model = nn.Module.to(model_named(name), torch.bfloat16)
    cache = KVCache(4, CONTEXT)
    decoder = native(model, cache, kind)
    alone = on_tensor_thread(lambda: decoded_in_steps(decoder, cache, [3], [1]))
    for others in (2, 7, 13, 40):
        found = on_tensor_thread(partial(decoded_in_steps, decoder, cache, list(range(3, 3 + others)), [others]))
        assert torch.equal(found[0], alone[0]), others


@pytest.mark.parametrize(("kind", "error"), [("int8", 0.5 / 127), ("int4", 0.15)])
def test_an_outlier_coarsens_its_own_group_alone(kind: str, error: float) -> None:
    weight = torch.randn(8, 100, generator=torch.Generator().manual_seed(0))
    weight[3, 40] = 1000
    found = quantize(weight, kind).dequantized()
    assert found.shape == weight.shape
    for first in range(0, 100, 32):
        group = slice(first, first + 32)
        largest = weight[:, group].abs().amax(1, keepdim=True)
        assert ((found - weight)[:, group].abs() / largest).max().item() <= error * 1.01
    weight[3, 40] = 0
    assert torch.equal(found[:, 64:], quantize(weight, kind).dequantized()[:, 64:])


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_can_say_it_leaves_as_it_is(kind: str) -> None:
    weight = torch.tensor([[0.0] * 32, [2.5] * 32, [0.25 * (code % 16) - 2 for code in range(32)]])
    assert torch.equal(quantize(weight, kind).dequantized(), weight) or kind == "int8"
    assert torch.equal(quantize(weight, kind).dequantized()[:1], weight[:1])
    assert (quantize(weight, kind).dequantized() - weight).abs().max().item() < 0.02


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1e6])
def test_weights_that_no_scale_holds_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="expected weights below 65504"):
        quantize(torch.tensor([[wrong, 1.0]]), "int8")


@pytest.mark.parametrize(("kind", "share"), [("int8", 0.55), ("int4", 0.35)])
def test_matrices_take_less_memory_than_in_bfloat16(kind: str, share: float) -> None:
    model = nn.Module.to(random_model_of_width(288), torch.bfloat16)
    matrices = 2 * sum(part.weight.numel() for part in model.modules() if isinstance(part, nn.Linear))
    saved = bytes_held(model, None) - bytes_held(model, kind)
    assert saved > (1 - share) * matrices * 0.95


def random_model_of_width(hidden: int) -> PreTrainedModel:
    return model_of(LlamaConfig(**{**SHAPE, "hidden_size": hidden, "intermediate_size": 2 * hidden}))


@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_serves_it_and_compiles_without_being_told_to(kind: str) -> None:
    model = rounded(model_named("llama"), kind)
    expected = {p: reference_output(model, byte_tokenizer()(p)["input_ids"], LENGTH) for p in PROMPTS}
    checkpoint = Checkpoint(model_named("llama"), byte_tokenizer(), CONTEXT)
    engine, inbox = Engine(checkpoint, Config(quantize=kind, max_streams=3)), Inbox()
    probes = {submit(engine, inbox, prompt, max_tokens=LENGTH, temperature=0): prompt for prompt in PROMPTS}
    run_until_idle(engine)
    for probe, prompt in probes.items():
        assert inbox.token_ids(probe) == expected[prompt], prompt


def test_where_there_can_be_none_it_says_why_and_does_not_serve_the_whole_model_instead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = Checkpoint(random_model("gpt2"), byte_tokenizer(), CONTEXT)
    with pytest.raises(UnsupportedModel, match=r"int8.*GPT2Model is not one of LlamaModel"):
        Engine(checkpoint, Config(quantize="int8"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UnsupportedModel, match=r"int4.*found no C\+\+ compiler"):
        engine_of(model_named("llama"), quantize="int4")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_rounding_is_refused_though_rounding_changes_as_much(kind: str) -> None:
    model = model_of(LlamaConfig(**SHAPE | {"is_causal": False}))
    with pytest.raises(UnsupportedModel, match="LlamaForCausalLM gives other logits on this engine's cache than by"):
        engine_of(model, quantize=kind)


def test_a_model_that_few_bits_spoil_is_refused_with_that_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = NativeDecoder.forward
    monkeypatch.setattr(NativeDecoder, "forward", lambda self, batch: forward(self, batch) * 2.5)
    with pytest.raises(UnsupportedModel, match=r"int8 LlamaForCausalLM gives .*without ENGINE_QUANTIZE"):
        engine_of(model_named("llama"), quantize="int8")


@pytest.mark.parametrize(
    ("factor", "reason"),
    [(1e6, "No weights in int8: expected weights below 65504"), (1e-9, "With weights in int8 .* other logits")],
)
def test_weights_beyond_what_scales_can_say_are_refused_with_that_reason(factor: float, reason: str) -> None:
    model = model_named("llama")
    with torch.no_grad():
        model.lm_head.weight *= factor
    with pytest.raises(UnsupportedModel, match=reason):
        engine_of(model, quantize="int8")
