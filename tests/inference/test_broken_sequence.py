"""NaN from the model ends that sequence, and disturbs neither others nor the next one in its slot."""

import logging
from typing import Any

import pytest
import torch
from torch import nn

from config import Config
from engine import Engine
from inference.weights.checkpoint import Checkpoint
from interface.engine import Counters
from interface.events import Failed, Finished
from tests.support.tiny_models import (
    CONTEXT,
    Inbox,
    byte_tokenizer,
    random_model,
    reference,
    run_until_idle,
    submit,
)

POISON = "<pad>"
"""The embedding of this token is NaN, and so is everything that looks at it. No healthy answer has it, nor has a text
of the check at the start, which leaves out token 0."""
HEALTHY = ["the cat sat on the mat", "a dog", "once upon a time there was a fox who could not sleep"]


def poisoned_engine(architecture: str, **settings: Any) -> Engine:
    model = random_model(architecture)
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    with torch.no_grad():
        embedding.weight[poison_id()] = float("nan")
    return Engine(Checkpoint(model, byte_tokenizer(), CONTEXT), Config(**settings))


def poison_id() -> int:
    (token_id,) = byte_tokenizer()(POISON)["input_ids"]
    return int(token_id)


SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 1.0, "top_k": 5, "min_p": 0.1, "logprobs": 3},
    {"temperature": 0, "frequency_penalty": 1.0, "repetition_penalty": 1.2, "logit_bias": {40: -100.0}},
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_a_sequence_with_nan_fails_alone_with_one_line_in_the_log(
    sampling: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    engine, inbox = poisoned_engine("llama", max_streams=4), Inbox()
    with caplog.at_level(logging.INFO, logger="engine"):
        neighbours = [submit(engine, inbox, text, 12, temperature=0) for text in HEALTHY]
        broken = submit(engine, inbox, f"it is {POISON} here", 12, **sampling)
        run_until_idle(engine)
    for text, neighbour in zip(HEALTHY, neighbours, strict=True):
        assert inbox.token_ids(neighbour) == reference("llama", text, 12)
    end = inbox.end(broken)
    assert isinstance(end, Failed)
    assert end.kind == "engine_error"
    assert "NaN" in end.message
    assert inbox.events[broken] == [end]
    errors = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.exc_info for record in errors] == [None]
    assert f"Sequence {broken}" in errors[0].getMessage()
    assert engine.counters() == Counters(0, 0, 36)


def test_a_sequence_fails_at_the_token_that_gives_nan_and_keeps_those_before() -> None:
    engine, inbox = poisoned_engine("llama", max_streams=2), Inbox()
    neighbour = submit(engine, inbox, HEALTHY[0], 12, temperature=0)
    broken = submit(engine, inbox, "well", 12, temperature=0, logit_bias={poison_id(): 100.0})
    run_until_idle(engine)
    assert inbox.token_ids(broken) == [poison_id()]
    assert isinstance(inbox.end(broken), Failed)
    assert inbox.token_ids(neighbour) == reference("llama", HEALTHY[0], 12)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "qwen2_moe"])
def test_the_next_sequences_in_its_slot_are_as_on_a_fresh_server(architecture: str) -> None:
    engine, inbox = poisoned_engine(architecture, max_streams=2, prefill_chunk=16), Inbox()
    texts = [f"{HEALTHY[2]} {POISON} {HEALTHY[0]}", f"{HEALTHY[0]}{POISON}", f"{POISON}{HEALTHY[2]}"]
    for text in texts:
        broken = submit(engine, inbox, text, 12, temperature=0)
        run_until_idle(engine)
        assert isinstance(inbox.end(broken), Failed)
        # The beginnings of what was broken, long next to short: attention reads both slots to the longer one's end.
        together = [submit(engine, inbox, healthy, 12, temperature=0) for healthy in HEALTHY]
        run_until_idle(engine)
        for healthy, sequence_id in zip(HEALTHY, together, strict=True):
            assert inbox.token_ids(sequence_id) == reference(architecture, healthy, 12)


def test_a_prompt_that_is_aborted_before_it_breaks_leaves_nothing_behind() -> None:
    engine, inbox = poisoned_engine("llama", max_streams=1, prefill_chunk=16), Inbox()
    for _ in range(2):
        leaving = submit(engine, inbox, HEALTHY[2] * 2 + POISON, 12, temperature=0)
        engine.step()
        engine.abort(leaving)
        run_until_idle(engine)
        assert inbox.finish_reason(leaving) == "abort"
        staying = submit(engine, inbox, HEALTHY[1], 12, temperature=0)
        run_until_idle(engine)
        assert inbox.token_ids(staying) == reference("llama", HEALTHY[1], 12)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("architecture", "compiled"), [("llama", False), ("gpt2", False), ("mistral", False), ("llama", True)]
)
def test_a_prompt_fails_at_the_piece_that_breaks_and_is_offered_to_no_other(architecture: str, compiled: bool) -> None:
    engine, inbox = poisoned_engine(architecture, max_streams=2, prefill_chunk=8, compile=compiled), Inbox()
    begun = f"{HEALTHY[0]}, {POISON} and then "
    neighbour = submit(engine, inbox, HEALTHY[1], 40, temperature=0)
    engine.step()
    leaving = submit(engine, inbox, begun + HEALTHY[2] * 2, 12, temperature=0)
    for _ in range(20):
        engine.step()
    end = inbox.end(leaving)
    assert isinstance(end, Failed)
    assert "NaN" in end.message
    assert engine.counters().running == 1, "it has not waited for the last piece of its prompt"
    again = submit(engine, inbox, f"{HEALTHY[0]}, {HEALTHY[1]}", 12, temperature=0)
    run_until_idle(engine)
    second = inbox.end(again)
    assert isinstance(second, Finished)
    assert second.cached_tokens == 0, "not even what was computed before it broke"
    assert inbox.token_ids(again) == reference(architecture, f"{HEALTHY[0]}, {HEALTHY[1]}", 12)
    assert inbox.token_ids(neighbour) == reference(architecture, HEALTHY[1], 40)


@pytest.mark.timeout(120)
def test_compiled_a_broken_sequence_leaves_its_neighbours_alone_too() -> None:
    engine, inbox = poisoned_engine("qwen3", max_streams=3, compile=True), Inbox()
    for sampling in SAMPLINGS:
        broken = submit(engine, inbox, f"it is {POISON} here", 12, **sampling)
        neighbours = [submit(engine, inbox, text, 12, temperature=0) for text in HEALTHY]
        run_until_idle(engine)
        assert isinstance(inbox.end(broken), Failed)
        for text, neighbour in zip(HEALTHY, neighbours, strict=True):
            assert inbox.token_ids(neighbour) == reference("qwen3", text, 12)
