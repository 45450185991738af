"""Decode steps laid out for CUDA graphs. With a GPU the graphs are replayed; without, the layout is run directly."""

import logging

import pytest
import torch
from transformers import PreTrainedModel

from inference.cache.kv_cache import KVCache
from inference.decoders import select
from inference.decoders.cuda_graphs import GraphedDecoder, Work
from inference.decoders.select import select_decoder
from tests.support.tiny_models import (
    CONTEXT,
    Inbox,
    reference,
    run_until_idle,
    submit,
    tiny_engine,
)

PROMPTS = ["a", "Hello, world", "x" * 100, "once upon a time there was a fox"]
LENGTH = 24


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every engine gets the decoder of graphs, whose works are called instead of replayed; the numbers of the calls."""
    called: list[int] = []

    def call(work: Work) -> Work:
        number = len(works)
        works.append(work)

        def replay() -> torch.Tensor:
            called.append(number)
            return work()

        return replay

    def select_graphed(
        model: PreTrainedModel, cache: KVCache, is_compiled: bool, quantize: str | None
    ) -> GraphedDecoder:
        decoder = select_decoder(model, cache, is_compiled, quantize)
        return GraphedDecoder(decoder, cache, torch.device("cpu"), call)

    works: list[Work] = []
    monkeypatch.setattr("inference.decoders.cuda_graphs.SHORTEST", 32)
    monkeypatch.setattr("inference.model_runner.select_decoder", select_graphed)
    return called


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_steps_with_a_row_for_every_slot_say_what_generate_says(architecture: str, replays: list[int]) -> None:
    engine, inbox = tiny_engine(architecture, max_streams=3, prefill_chunk=16), Inbox()
    probes = {submit(engine, inbox, p, max_tokens=LENGTH, temperature=0): p for p in PROMPTS * 2}
    run_until_idle(engine)
    for probe, prompt in probes.items():
        assert inbox.token_ids(probe) == reference(architecture, prompt, LENGTH), prompt
    assert len(set(replays)) > 1, "texts of several lengths use graphs of several lengths"


def test_an_unused_row_leaves_what_its_slot_holds_alone(replays: list[int]) -> None:
    engine = tiny_engine("llama", max_streams=2)
    engine.generate("x" * 60, max_tokens=1, temperature=0)
    engine.generate("Hello, world", max_tokens=LENGTH, temperature=0)  # decodes in the other slot
    again = engine.generate("x" * 60 + "!", max_tokens=LENGTH, temperature=0)
    assert again["cached_tokens"] == 60
    assert again["token_ids"] == reference("llama", "x" * 60 + "!", LENGTH)


def test_the_longest_text_that_fits_has_a_graph(replays: list[int]) -> None:
    engine = tiny_engine("llama", max_streams=2)
    answer = engine.generate("x" * (CONTEXT - LENGTH), max_tokens=LENGTH, temperature=0)
    assert answer["token_ids"] == reference("llama", "x" * (CONTEXT - LENGTH), LENGTH)


def test_graphs_that_cannot_be_made_leave_the_model_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(work: Work) -> Work:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(select, "Capture", lambda: fails)
    monkeypatch.setattr(select, "has_graphs", lambda device: True)
    engine = tiny_engine("llama", compile=True)
    [warning] = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warning == "The model runs without CUDA graphs: operation not permitted when stream is capturing"
    answer = engine.generate("Hello, world", max_tokens=LENGTH, temperature=0)
    assert answer["token_ids"] == reference("llama", "Hello, world", LENGTH)
