"""Decode steps that begin before the last step's tokens are read. Without a GPU, torch operators compute them."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from engine import Engine
from inference import choosers
from inference.cache.batch import Batch
from inference.cache.kv_cache import KVCache
from inference.cache.layout import Piece, lay_out
from inference.decoders import select
from inference.decoders.ahead import Ahead
from inference.decoders.gpu.graphs import GraphedSteps, row_counts
from inference.decoders.torch_decoder import TorchDecoder
from inference.sampling import draw
from inference.weights.llama import Llama
from inference.weights.take_apart import take_apart
from interface.errors import UnsupportedModel
from interface.events import Failed
from interface.requests import GenerationRequest, Grammar, SamplingParams, TextPrompt
from tests.support.tiny_models import CONTEXT, VOCABULARY, Inbox, reference, run_until_idle, submit, tiny_engine

PROMPTS = ["a", "Hello, world", "x" * 50, "once upon a time there was a fox"]
LENGTH = 12
CPU = torch.device("cpu")
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0.8, "seed": 1, "top_p": 0.9},
    {"temperature": 0, "repetition_penalty": 1.3, "frequency_penalty": 0.3},
    {"temperature": 0, "logprobs": 3, "logit_bias": {40: 2.0}},
    {"temperature": 1.0, "seed": 2, "top_k": 9},
]


class StepsOfTorch:
    """Stands in for the decoder whose kernels need a GPU."""

    name = "steps of torch"
    has_same_bits = False

    def __init__(self, model: Llama, cache: KVCache) -> None:
        self._decoder = TorchDecoder(model)
        self._cache = cache
        self.broken_after: int | None = None  # steps until the first row of each gives NaN
        self.rows: list[int] = []

    def forward(self, batch: Batch) -> Tensor:
        return self._decoder.forward(batch)

    def step(self, token_ids: Tensor, positions: Tensor, slots: Tensor) -> Tensor:
        logits = torch.full((len(slots), VOCABULARY), float("nan"))
        rows = [row for row, slot in enumerate(slots.tolist()) if slot >= 0]
        pieces = [Piece(int(slots[row]), int(positions[row]), [max(0, int(token_ids[row]))]) for row in rows]
        if rows:
            logits[rows] = self._decoder.forward(lay_out(pieces, [], self._cache, CPU))
        self.rows.append(len(slots))
        if self.broken_after is not None and len(self.rows) > self.broken_after:
            logits[0] = float("nan")
        return logits


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[StepsOfTorch]:
    """Every engine begins its steps ahead; the decoders that they got."""
    made: list[StepsOfTorch] = []

    def select_ahead(model: PreTrainedModel, cache: KVCache, is_compiled: bool, quantize: str | None) -> GraphedSteps:
        made.append(StepsOfTorch(take_apart(model, cache.row_length), cache))
        return GraphedSteps(made[-1], cache.slots, CPU, lambda work: work)

    monkeypatch.setattr("inference.model_runner.select_decoder", select_ahead)
    return made


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each step of an engine, whether it had been begun."""
    found: list[bool] = []
    take = Ahead.claim

    def noted(ahead: Ahead, schedule: Any) -> Tensor | None:
        logits = take(ahead, schedule)
        found.append(logits is not None)
        return logits

    monkeypatch.setattr(Ahead, "claim", noted)
    return found


def run(engine: Engine, settings: Sequence[dict[str, Any]]) -> list[list[int]]:
    inbox = Inbox()
    numbers = [
        submit(engine, inbox, PROMPTS[n], max_tokens=LENGTH, **parameters) for n, parameters in enumerate(settings)
    ]
    run_until_idle(engine)
    return [inbox.token_ids(number) for number in numbers]


def test_the_text_is_that_of_generate_and_most_steps_were_begun_before(
    steps: list[StepsOfTorch], taken: list[bool]
) -> None:
    engine, inbox = tiny_engine(max_streams=3, prefill_chunk=16), Inbox()
    probes = {submit(engine, inbox, p, max_tokens=LENGTH, temperature=0): p for p in PROMPTS * 2}
    run_until_idle(engine)
    for probe, prompt in probes.items():
        assert inbox.token_ids(probe) == reference("llama", prompt, LENGTH), prompt
    assert taken.count(True) > len(taken) / 2


def test_whatever_chooses_the_tokens_chooses_the_same(steps: list[StepsOfTorch], taken: list[bool]) -> None:
    found = run(tiny_engine(max_streams=4), SETTINGS)
    assert any(taken)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ahead, "claim", lambda ahead, schedule: None)
        assert run(tiny_engine(max_streams=4), SETTINGS) == found


def test_a_grammar_is_followed(steps: list[StepsOfTorch], taken: list[bool]) -> None:
    engine, inbox = tiny_engine(max_streams=2), Inbox()
    request = GenerationRequest(
        TextPrompt("Hello"), SamplingParams(max_tokens=20, temperature=0), grammar=Grammar("regex", "[ab]{3}[0-9]{4}")
    )
    engine.submit(engine.encode([request]), inbox)
    run_until_idle(engine)
    text = inbox.text(request.sequence_id)
    assert len(text) == 7
    assert set(text[:3]) <= set("ab")
    assert text[3:].isdigit()
    assert any(taken)


def test_a_slot_is_good_for_the_next_text_after_a_step_in_vain(steps: list[StepsOfTorch]) -> None:
    engine = tiny_engine(max_streams=1)
    engine.generate("x" * 60, max_tokens=5, temperature=0)
    again = engine.generate("x" * 60 + "!", max_tokens=LENGTH, temperature=0)
    assert again["cached_tokens"] == 60
    assert again["token_ids"] == reference("llama", "x" * 60 + "!", LENGTH)
    assert engine.generate("no", max_tokens=LENGTH, temperature=0)["token_ids"] == reference("llama", "no", LENGTH)


def test_an_abort_leaves_the_others_as_they_are(steps: list[StepsOfTorch], taken: list[bool]) -> None:
    engine, inbox = tiny_engine(max_streams=2), Inbox()
    leaving = submit(engine, inbox, "leaving", max_tokens=60, temperature=0)
    staying = submit(engine, inbox, PROMPTS[1], max_tokens=LENGTH, temperature=0)
    for _ in range(6):
        engine.step()
    assert taken[-1]
    engine.abort(leaving)
    engine.step()
    assert not taken[-1], "what had been begun was of two sequences"
    run_until_idle(engine)
    assert inbox.token_ids(staying) == reference("llama", PROMPTS[1], LENGTH)


def test_a_row_of_nan_ends_alone(steps: list[StepsOfTorch]) -> None:
    engine, inbox = tiny_engine(max_streams=2), Inbox()
    first = submit(engine, inbox, "first", max_tokens=LENGTH, temperature=0)  # in the first row
    engine.step()
    second = submit(engine, inbox, PROMPTS[1], max_tokens=LENGTH, temperature=0)
    engine.step()
    steps[0].broken_after = len(steps[0].rows) + 2
    while not inbox.ends(first):
        engine.step()
    steps[0].broken_after = None
    run_until_idle(engine)
    assert isinstance(inbox.end(first), Failed)
    assert inbox.token_ids(second) == reference("llama", PROMPTS[1], LENGTH)


def test_a_text_may_fill_the_context(steps: list[StepsOfTorch]) -> None:
    prompt = "x" * (CONTEXT - LENGTH)
    engine = tiny_engine(max_streams=1)
    assert engine.generate(prompt, max_tokens=LENGTH, temperature=0)["token_ids"] == reference("llama", prompt, LENGTH)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU whose graphs are functions, as far as choosing a decoder is concerned."""
    monkeypatch.setattr(select, "has_graphs", lambda device: True)
    monkeypatch.setattr(select, "has_kernels", lambda device: True)
    monkeypatch.setattr(select, "Capture", lambda: lambda work: work)


def test_a_model_on_a_gpu_gets_kernels_and_its_steps_as_graphs(
    on_a_gpu: None, monkeypatch: pytest.MonkeyPatch, taken: list[bool]
) -> None:
    monkeypatch.setattr(select, "kernel_decoder", StepsOfTorch)
    engine = tiny_engine(compile=True)
    assert engine._runner.decoder_name == "steps of torch, decode steps as CUDA graphs"
    assert engine.generate("Hello", max_tokens=LENGTH, temperature=0)["token_ids"] == reference(
        "llama", "Hello", LENGTH
    )
    assert any(taken)


def test_without_kernels_the_operators_of_torch_become_graphs(
    on_a_gpu: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(model: Llama, cache: KVCache) -> StepsOfTorch:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(select, "kernel_decoder", fails)
    engine = tiny_engine(compile=True)
    assert engine._runner.decoder_name == "operators of torch, decode steps as CUDA graphs"
    assert "The model runs without kernels of its own: Failed to find C compiler" in caplog.text
    assert engine.generate("Hello", max_tokens=LENGTH, temperature=0)["token_ids"] == reference(
        "llama", "Hello", LENGTH
    )


def test_without_kernels_tokens_are_chosen_by_operators_of_torch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*settings: Any) -> draw.DeviceChooser:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(choosers, "_with_kernels", fails)
    chosen = choosers.device_chooser_for(torch.device("cuda"), True, VOCABULARY, torch.bfloat16, slots=4)
    assert chosen is draw.choose_on_device
    assert "Tokens are chosen without kernels of their own: Failed to find C compiler" in caplog.text


def test_few_bits_are_refused_on_a_gpu(on_a_gpu: None) -> None:
    with pytest.raises(UnsupportedModel, match=r"int8 needs the decoder in C\+\+, and there is none here"):
        tiny_engine(quantize="int8")


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 16, 33, 64, 100, 256])
def test_a_step_has_less_than_twice_the_rows_that_it_needs(slots: int) -> None:
    counts = row_counts(slots)
    for needed in range(1, slots + 1):
        rows = min(count for count in counts if count >= needed)
        assert rows < 2 * needed or rows == needed
    assert counts[-1] == slots
    assert len(counts) <= 16
