"""Log probabilities of an answer's and a prompt's tokens: those of transformers' logits, with each token's bytes."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from engine import Engine
from inference.scheduling.scheduler import MAX_SCORED, Schedule
from interface.events import Finished, Logprobs, PromptEcho, Token
from interface.requests import GenerationRequest, SequenceId, text_request
from tests.support.tiny_models import (
    Inbox,
    byte_tokenizer,
    decode,
    reference_model,
    reference_output,
    run_until_idle,
    submit,
    tiny_engine,
)

PROMPT = "it is half past ten, 你好 😀"


def raw_logprobs(token_ids: list[int]) -> Tensor:
    """What follows each token of a text, by the model alone: [tokens, vocabulary]."""
    with torch.inference_mode():
        logits: Tensor = reference_model("llama")(torch.tensor([token_ids])).logits[0]
    return logits.log_softmax(-1)


def assert_reports(report: Logprobs, token_id: int, expected: Tensor, count: int) -> None:
    """The report names this token and the `count` most likely ones, with the numbers of `expected` [vocabulary]."""
    order = expected.argsort(descending=True)[:count].tolist()
    assert (report.chosen.token_id, [entry.token_id for entry in report.top]) == (token_id, order)
    for entry in (report.chosen, *report.top):
        assert entry.logprob == pytest.approx(expected[entry.token_id].item(), abs=1e-4)
        assert entry.bytes.decode(errors="replace") == entry.token


@pytest.mark.parametrize(
    "sampling", [{}, {"frequency_penalty": 2.0, "logit_bias": {70: 5.0}, "min_tokens": 3}], ids=str
)
def test_an_answers_are_those_of_the_raw_logits(sampling: dict[str, Any]) -> None:
    engine, inbox = tiny_engine(max_streams=3), Inbox()
    neighbour = submit(engine, inbox, "the neighbour", 9, temperature=0)
    asking = submit(engine, inbox, PROMPT, 9, temperature=0, logprobs=4, **sampling)
    run_until_idle(engine)
    prompt_ids: list[int] = byte_tokenizer()(PROMPT)["input_ids"]
    token_ids = inbox.token_ids(asking)
    expected = raw_logprobs(prompt_ids + token_ids)
    for place, token in enumerate(inbox.tokens(asking)):
        assert token.logprobs is not None
        assert_reports(token.logprobs, token_ids[place], expected[len(prompt_ids) + place - 1], 4)
    assert all(token.logprobs is None for token in inbox.tokens(neighbour))


def test_a_greedy_token_has_the_number_of_the_first_alternative_to_the_bit() -> None:
    engine, inbox = tiny_engine(max_streams=1), Inbox()
    asking = submit(engine, inbox, PROMPT, 9, temperature=0, logprobs=1)
    run_until_idle(engine)
    for token in inbox.tokens(asking):
        assert token.logprobs is not None
        assert token.logprobs.top == (token.logprobs.chosen,)


def test_the_bytes_of_an_answers_tokens_are_its_text() -> None:
    engine, inbox = tiny_engine(max_streams=1), Inbox()
    asking = submit(engine, inbox, PROMPT, 30, temperature=0, logprobs=0, skip_special_tokens=False)
    run_until_idle(engine)
    chosen = [token.logprobs.chosen.bytes for token in inbox.tokens(asking) if token.logprobs is not None]
    assert b"".join(chosen).decode(errors="replace") == inbox.text(asking)


def submit_echo(engine: Engine, inbox: Inbox, request: GenerationRequest, prompt_logprobs: bool) -> SequenceId:
    """Submit a request that repeats its prompt."""
    request = dataclasses.replace(request, echo=True, prompt_logprobs=prompt_logprobs)
    engine.submit(engine.encode([request]), inbox)
    return request.sequence_id


def echo_of(events: list[Any]) -> PromptEcho:
    """The event that repeats the prompt, which comes once and before all others."""
    assert isinstance(events[0], PromptEcho)
    assert not any(isinstance(event, PromptEcho) for event in events[1:])
    assert isinstance(events[1], Token)
    return events[0]


@pytest.mark.parametrize("chunk", [4, 256])
def test_those_of_a_prompt_are_the_models_whatever_the_chunks_and_the_cache(chunk: int) -> None:
    engine, inbox = tiny_engine(max_streams=3, prefill_chunk=chunk), Inbox()
    prompt_ids: list[int] = byte_tokenizer()(PROMPT)["input_ids"]
    expected = raw_logprobs(prompt_ids)
    for _ in range(2):  # the second time, the whole prompt is in the prefix cache
        neighbour = submit(engine, inbox, "the neighbour", 20, temperature=0)
        engine.step()
        asking = submit_echo(engine, inbox, text_request(PROMPT, max_tokens=5, temperature=0, logprobs=2), True)
        run_until_idle(engine)
        echo = echo_of(inbox.events[asking])
        assert echo.text == PROMPT
        assert [entry.chosen.token_id for entry in echo.tokens] == prompt_ids
        assert (echo.tokens[0].chosen.logprob, echo.tokens[0].top) == (None, ())
        for place in range(1, len(prompt_ids)):
            assert_reports(echo.tokens[place], prompt_ids[place], expected[place - 1], 2)
        assert inbox.token_ids(asking) == reference_output(reference_model("llama"), prompt_ids, 5)
        assert not any(isinstance(event, PromptEcho) for event in inbox.events[neighbour])


def test_a_prompt_is_repeated_as_it_came_and_not_as_its_tokens_say_it() -> None:
    engine, inbox = tiny_engine(max_streams=1), Inbox()
    asking = submit_echo(engine, inbox, text_request("<mark>hi", max_tokens=2), False)
    run_until_idle(engine)
    assert echo_of(inbox.events[asking]).text == "<mark>hi"


def test_an_echo_without_logprobs_has_the_tokens_alone_and_uses_the_prefix_cache() -> None:
    engine, inbox = tiny_engine(max_streams=1), Inbox()
    submit(engine, inbox, PROMPT, 2, temperature=0)
    run_until_idle(engine)
    asking = submit_echo(engine, inbox, text_request(PROMPT, max_tokens=2, temperature=0), False)
    run_until_idle(engine)
    echo = echo_of(inbox.events[asking])
    assert b"".join(entry.chosen.bytes for entry in echo.tokens) == PROMPT.encode()
    assert {entry.chosen.logprob for entry in echo.tokens} == {None}
    end = inbox.end(asking)
    assert isinstance(end, Finished)
    assert end.cached_tokens > 0


def test_a_prompt_of_one_token_has_no_log_probability() -> None:
    engine, inbox = tiny_engine(max_streams=1), Inbox()
    asking = submit_echo(engine, inbox, text_request("x", max_tokens=1, temperature=0, logprobs=1), True)
    run_until_idle(engine)
    (only,) = echo_of(inbox.events[asking]).tokens
    assert (only.chosen.token, only.chosen.logprob, only.top) == ("x", None, ())
    assert only.chosen.token_id is not None
    assert decode(byte_tokenizer(), [only.chosen.token_id]) == "x"


def test_the_logits_of_a_long_prompt_are_never_held_all_at_once() -> None:
    engine, inbox = tiny_engine(max_streams=1, prefill_chunk=512), Inbox()
    rows: list[int] = []
    forward = engine._runner.forward

    def counting(schedule: Schedule) -> Tensor:
        logits = forward(schedule)
        rows.append(len(logits))
        return logits

    engine._runner.forward = counting  # type: ignore[method-assign]
    prompt = "word " * 30
    asking = submit_echo(engine, inbox, text_request(prompt, max_tokens=2, temperature=0, logprobs=0), True)
    run_until_idle(engine)
    assert len(echo_of(inbox.events[asking]).tokens) == len(prompt)
    assert sum(rows) == len(prompt) - 1 + 2
    assert max(rows) == MAX_SCORED < len(prompt)
