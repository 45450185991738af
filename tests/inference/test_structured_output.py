"""An answer follows the grammar that its request asks for, whatever the model prefers."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from config import Config
from engine import Engine
from interface.errors import RequestError
from interface.events import Failed, Finished
from interface.requests import GenerationRequest, Grammar, SamplingParams, TextPrompt
from tests.support.json_schemas import is_valid, random_schema
from tests.support.tiny_models import Inbox, reference, run_until_idle, submit, tiny_engine

SCHEMAS = [random_schema(seed) for seed in range(200)]


def grammar(schema: object) -> Grammar:
    return Grammar("json_schema", json.dumps(schema))


def request(prompt: str, answer_grammar: Grammar, **settings: Any) -> GenerationRequest:
    return GenerationRequest(TextPrompt(prompt), SamplingParams(**settings), grammar=answer_grammar)


def answers(engine: Engine, requests: Sequence[GenerationRequest]) -> list[tuple[str, str]]:
    """The text and the finish reason of each answer."""
    inbox = Inbox()
    engine.submit(engine.encode(requests), inbox)
    run_until_idle(engine, most_steps=20_000)
    return [(inbox.text(request.sequence_id), inbox.finish_reason(request.sequence_id)) for request in requests]


def number_of_valid(engine: Engine, max_tokens: int) -> int:
    """How many of 200 random schemas' answers are finished; every one of those must be valid."""
    requests = [
        request("Answer in JSON:", grammar(schema), max_tokens=max_tokens, temperature=1.0, seed=number)
        for number, schema in enumerate(SCHEMAS)
    ]
    finished = 0
    for schema, (text, reason) in zip(SCHEMAS, answers(engine, requests), strict=True):
        if reason == "stop":
            finished += 1
            assert is_valid(text, schema), (text, schema)
    return finished


@pytest.mark.timeout(120)
def test_every_finished_answer_of_the_bundled_model_is_valid_for_its_schema() -> None:
    assert number_of_valid(Engine.load(Config(max_streams=16, max_waiting=200)), max_tokens=200) >= 180


@pytest.mark.timeout(120)
def test_every_finished_answer_of_a_model_with_random_weights_is_valid_for_its_schema() -> None:
    engine = tiny_engine(eos_ids=[1], max_streams=16, max_waiting=200)
    assert number_of_valid(engine, max_tokens=120) >= 150


def test_an_answer_ends_where_its_grammar_is_complete() -> None:
    engine = tiny_engine()
    requests = [
        request("a", Grammar("choice", '["yes", "no"]'), temperature=0),
        request("b", Grammar("regex", "[0-9]{3}-[a-f]{2}"), temperature=1.0),
        request("c", Grammar("lark", 'start: "x" "y"'), temperature=0, ignore_eos=True),
    ]
    (choice, pattern, lark) = answers(engine, requests)
    assert choice in [("yes", "stop"), ("no", "stop")]
    assert pattern[1] == "stop"
    assert len(pattern[0]) == 6
    assert lark == ("xy", "stop")


def test_an_answer_that_is_cut_off_says_so() -> None:
    (answer,) = answers(tiny_engine(), [request("a", Grammar("regex", "[a-z]{50}"), max_tokens=10)])
    assert answer[1] == "length"
    assert len(answer[0]) == 10


def test_neighbours_of_a_row_with_a_grammar_say_what_they_say_alone() -> None:
    engine, inbox = tiny_engine(max_streams=4), Inbox()
    plain = [submit(engine, inbox, prompt, max_tokens=12, temperature=0) for prompt in ("one", "another")]
    constrained = request("third", grammar({"type": "boolean"}), temperature=0)
    engine.submit(engine.encode([constrained]), inbox)
    run_until_idle(engine)
    assert [inbox.token_ids(sequence_id) for sequence_id in plain] == [
        reference("llama", "one", 12),
        reference("llama", "another", 12),
    ]
    assert inbox.text(constrained.sequence_id) in ("true", "false")


def test_a_grammar_goes_with_every_other_parameter() -> None:
    settings: dict[str, Any] = {"min_tokens": 3, "repetition_penalty": 1.3, "presence_penalty": 0.5, "top_p": 0.9}
    settings |= {"top_k": 40, "min_p": 0.01, "logprobs": 2, "logit_bias": {5: 3.0}, "seed": 1, "temperature": 1.0}
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    closed = {**schema, "additionalProperties": False}
    (answer,) = answers(tiny_engine(), [request("a", grammar(closed), **settings)])
    assert answer[1] == "stop"
    assert is_valid(answer[0], closed)


class Stuck:
    """A grammar that can go no further at its first step."""

    error = "The grammar cannot be followed further: too complex"
    is_finished = False

    def start(self) -> "Stuck":
        return self

    def mask(self) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
        return np.zeros(10, dtype=np.int32)


def test_a_grammar_that_can_go_no_further_ends_its_own_request_only() -> None:
    engine, inbox = tiny_engine(), Inbox()
    (encoded,) = engine.encode([request("a", Grammar("regex", "a"))])
    engine.submit([dataclasses.replace(encoded, grammar=Stuck())], inbox)
    neighbour = submit(engine, inbox, "one", max_tokens=12, temperature=0)
    run_until_idle(engine)
    assert inbox.end(encoded.sequence_id) == Failed(Stuck.error, "unusable_grammar")
    assert inbox.token_ids(neighbour) == reference("llama", "one", 12)
    assert isinstance(inbox.end(neighbour), Finished)


def test_a_grammar_that_cannot_be_enforced_is_refused_before_the_request_is_queued() -> None:
    with pytest.raises(RequestError, match='"not"'):
        tiny_engine().encode([request("a", grammar({"not": {}}))])
