"""On a GPU the engine's text is that of the CPU and of transformers, on every path, compiled or not.

`make test-cuda` runs these, and the engine's other tests on the GPU as well.
"""

from array import array
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, PreTrainedConfig, PreTrainedModel, Qwen2Config, Qwen3Config

from config import Config
from engine import Engine
from inference.sampling import draw
from inference.scheduling.sample_args import LogitBias, SampleArgs, TokenCounts
from inference.weights.checkpoint import Checkpoint, load_checkpoint
from inference.weights.context import CacheBudget
from inference.weights.memory import free_memory
from interface.errors import UnsupportedModel
from interface.requests import GenerationRequest, Grammar, SamplingParams, TextPrompt
from tests.support.gguf_files import write_gguf
from tests.support.tiny_models import (
    CONFIGS,
    CONTEXT,
    VOCABULARY,
    Inbox,
    bpe_tokenizer,
    byte_tokenizer,
    model_of,
    reference_output,
    run_until_idle,
)

pytestmark = pytest.mark.gpu

LENGTH = 24
PROMPTS = ["a", "Hello, world", "x" * 100, "once upon a time there was a fox", "2+2=", "the" * 20, "?", "y" * 70]
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "intermediate_size": 352,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.12,
    "bos_token_id": None,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}
OTHER_SHAPES: dict[str, PreTrainedConfig] = {
    "llama, heads of 64": LlamaConfig(**SHAPE, num_attention_heads=8, num_key_value_heads=1, head_dim=64),
    "llama, heads of 80": LlamaConfig(**SHAPE, num_attention_heads=4, num_key_value_heads=2, head_dim=80),
    "llama, every head its own": LlamaConfig(**SHAPE, num_attention_heads=4, num_key_value_heads=4),
    "qwen2": Qwen2Config(**SHAPE, num_attention_heads=4, num_key_value_heads=2),
    "qwen3, heads of 128": Qwen3Config(**SHAPE, num_attention_heads=4, num_key_value_heads=2, head_dim=128),
}
ARCHITECTURES = [name for name in CONFIGS if name != "mamba"]
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": LENGTH, "ignore_eos": True}
SETTINGS: list[dict[str, Any]] = [
    GREEDY,
    {**GREEDY, "temperature": 0.8, "seed": 1},
    {**GREEDY, "temperature": 1.2, "top_p": 0.8, "seed": 2},
    {**GREEDY, "temperature": 1.0, "top_k": 7, "seed": 3},
    {**GREEDY, "temperature": 1.0, "min_p": 0.05, "seed": 4},
    {**GREEDY, "repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.2},
    {**GREEDY, "logit_bias": {40: 3.0, 41: -100.0}, "logprobs": 5},
    {**GREEDY, "temperature": 0.9, "seed": 5, "logprobs": 0},
]


def config_of(name: str) -> PreTrainedConfig:
    return OTHER_SHAPES[name] if name in OTHER_SHAPES else CONFIGS[name]()


def engine_of(name: str, device: str, compile: bool = False, **settings: Any) -> Engine:
    model = model_of(config_of(name))
    nn.Module.to(model, device)
    checkpoint = Checkpoint(model, byte_tokenizer(), CONTEXT)
    return Engine(checkpoint, Config(**{"compile": compile, "max_streams": 5, "prefill_chunk": 16, **settings}))


@cache
def cpu_model(name: str) -> PreTrainedModel:
    return model_of(config_of(name))


@cache
def expected(name: str, prompt: str) -> list[int]:
    return reference_output(cpu_model(name), byte_tokenizer()(prompt)["input_ids"], LENGTH)


def answers(engine: Engine, requests: list[GenerationRequest]) -> list[list[int]]:
    inbox = Inbox()
    for request in requests:
        engine.submit(engine.encode([request]), inbox)
    run_until_idle(engine)
    return [inbox.token_ids(request.sequence_id) for request in requests]


def requests(settings: list[dict[str, Any]]) -> Iterator[GenerationRequest]:
    for number, chosen in enumerate(settings):
        yield GenerationRequest(TextPrompt(PROMPTS[number % len(PROMPTS)]), SamplingParams(**chosen))


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("name", [*ARCHITECTURES, *OTHER_SHAPES])
def test_greedy_text_is_that_of_generate(name: str, compile: bool) -> None:
    engine = engine_of(name, "cuda", compile)
    for streams in (1, len(PROMPTS), len(PROMPTS)):  # the last finds all prompts in the cache
        wanted = list(requests([GREEDY] * streams))
        found = answers(engine, wanted)
        for prompt, ids in zip(PROMPTS, found, strict=False):
            assert ids == expected(name, prompt), prompt


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
def test_every_sampling_parameter_chooses_what_it_chooses_on_the_cpu(name: str, compile: bool) -> None:
    on_gpu, on_cpu = engine_of(name, "cuda", compile), engine_of(name, "cpu")
    assert answers(on_gpu, list(requests(SETTINGS))) == answers(on_cpu, list(requests(SETTINGS)))


@pytest.mark.parametrize("compile", [False, True])
def test_a_grammar_is_followed(compile: bool) -> None:
    grammar = Grammar("regex", "[a-f]{5}[0-9]{10}")
    wanted = [
        GenerationRequest(TextPrompt("Hello"), SamplingParams(**GREEDY), grammar=grammar if number % 2 else None)
        for number in range(4)
    ]
    again = [replace(request, sequence_id=request.sequence_id + 10**6) for request in wanted]
    assert answers(engine_of("llama", "cuda", compile), wanted) == answers(engine_of("llama", "cpu"), again)


@pytest.mark.parametrize("compile", [False, True])
def test_log_probabilities_are_those_of_the_cpu(compile: bool) -> None:
    wanted: dict[str, Any] = {**GREEDY, "logprobs": 3}
    found, known = (
        engine.generate("Hello, world", **wanted)
        for engine in (engine_of("llama", "cuda", compile), engine_of("llama", "cpu"))
    )
    assert found["token_ids"] == known["token_ids"]
    for one, other in zip(found["logprobs"], known["logprobs"], strict=True):
        assert one["logprob"] == pytest.approx(other["logprob"], abs=1e-3)


@pytest.mark.parametrize("compile", [False, True])
def test_a_broken_row_ends_alone(compile: bool) -> None:
    rows = [SampleArgs(), SampleArgs(temperature=0.7, uniform=0.3), SampleArgs(top_p=0.5, temperature=1, uniform=0.9)]
    logits = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0))
    alone = draw.choose(logits.clone(), rows)
    logits[1, 77] = float("nan")
    chosen = draw.choose(logits.cuda(), rows)
    assert chosen == [alone[0], None, alone[2]]


def test_changes_of_logits_are_those_of_the_cpu() -> None:
    seen = TokenCounts([5, 6, 7])
    for token_id in (6, 9, 9):
        seen.add(token_id)
    rows = [
        SampleArgs(seen=seen, repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.1),
        SampleArgs(bias=LogitBias({3: 4.0, 8: -100.0}), temperature=0.9, uniform=0.4),
        SampleArgs(banned_ids=array("q", [1, 2]), temperature=0.9, top_k=5, top_p=0.7, uniform=0.8),
        SampleArgs(),
    ]
    for seed in range(20):
        logits = torch.randn(4, 3000, generator=torch.Generator().manual_seed(seed)) * 3
        assert draw.choose(logits.cuda(), rows) == draw.choose(logits.clone(), rows)


@pytest.mark.parametrize("compile", [False, True])
def test_what_a_broken_neighbour_leaves_behind_reaches_no_one(compile: bool) -> None:
    engine = engine_of("llama", "cuda", compile, max_streams=1)
    cache = engine._runner._cache
    engine.generate("y" * 120, **GREEDY)
    with torch.inference_mode():
        for layer in cache.rows.layers.values():
            for tensor in layer.stored:
                tensor[:, 2:] = float("nan")
    assert engine.generate("Hello, world", **GREEDY)["token_ids"] == expected("llama", "Hello, world")


@pytest.mark.parametrize("kind", ["Q8_0", "F32"])
def test_a_gguf_file_is_dequantized(tmp_path: Path, kind: str) -> None:
    path = write_gguf(
        tmp_path / "model.gguf", model_of(OTHER_SHAPES["llama, every head its own"]), bpe_tokenizer(), kind
    )
    texts = [
        Engine.load(Config(model=str(path), device=device, compile=compile, dtype="float32")).generate(
            "the cat", **GREEDY
        )
        for device, compile in (("cpu", False), ("cuda", False), ("cuda", True))
    ]
    assert texts[0]["token_ids"] == texts[1]["token_ids"] == texts[2]["token_ids"]


def test_weights_of_few_bits_are_refused_with_the_reason() -> None:
    with pytest.raises(UnsupportedModel, match="int8 needs the decoder in C\\+\\+"):
        engine_of("llama", "cuda", quantize="int8")


def test_the_context_is_what_the_gpu_s_memory_allows() -> None:
    device = torch.device("cuda")
    config = LlamaConfig(num_hidden_layers=32, num_attention_heads=32, hidden_size=4096, max_position_embeddings=10**6)
    free = free_memory(device)
    assert free is not None
    budget = CacheBudget.of(config, torch.bfloat16, device, slots=16, weight_bytes=2 * 10**9)
    assert budget.bytes_for(budget.affordable) <= free / 2
    checkpoint = load_checkpoint(Config(device="cuda"))
    assert checkpoint.model.device.type == "cuda"
    before = torch.cuda.memory_allocated()
    engine = Engine(checkpoint, Config(device="cuda", max_streams=4))
    assert engine._runner._cache.storage.bytes <= torch.cuda.memory_allocated() - before + 2**20
