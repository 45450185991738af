"""Every request ends in exactly one terminal event, whatever happens to it; its text is the decode of its ids."""

from collections.abc import Callable, Sequence

import pytest
from transformers import PreTrainedTokenizerBase

from engine import MAX_FAILED_STEPS, Engine
from interface.engine import Counters, StepEvents
from interface.errors import EngineFailed
from interface.events import Failed, Finished
from interface.requests import SequenceId, text_request
from tests.support.probes import LONG_PROMPT, break_the_model, steps
from tests.support.tiny_models import (
    Inbox,
    bpe_tokenizer,
    byte_tokenizer,
    decode,
    reference,
    run_until_idle,
    submit,
    syllable_tokenizer,
    tiny_engine,
)


def test_a_request_ends_once_when_it_has_all_its_tokens() -> None:
    engine, inbox = tiny_engine(), Inbox()
    sequence_id = submit(engine, inbox, "hello", max_tokens=5)
    run_until_idle(engine)
    steps(engine, 3)
    assert inbox.finish_reason(sequence_id) == "length"
    assert len(inbox.tokens(sequence_id)) == 5


def abort_before_its_submit_is_taken(engine: Engine, inbox: Inbox) -> SequenceId:
    sequence_id = submit(engine, inbox, "hello")
    engine.abort(sequence_id)
    return sequence_id


def abort_in_the_queue(engine: Engine, inbox: Inbox) -> SequenceId:
    submit(engine, inbox, "the one that has the slot", max_tokens=6)
    sequence_id = submit(engine, inbox, "hello")
    engine.step()
    assert engine.counters().waiting == 1
    engine.abort(sequence_id)
    return sequence_id


def abort_in_prefill(engine: Engine, inbox: Inbox) -> SequenceId:
    sequence_id = submit(engine, inbox, LONG_PROMPT)
    steps(engine, 2)
    assert (engine.counters().running, inbox.events[sequence_id]) == (1, [])
    engine.abort(sequence_id)
    return sequence_id


def abort_in_decode(engine: Engine, inbox: Inbox) -> SequenceId:
    sequence_id = submit(engine, inbox, "hello")
    steps(engine, 3)
    assert inbox.tokens(sequence_id)
    engine.abort(sequence_id)
    return sequence_id


def abort_twice(engine: Engine, inbox: Inbox) -> SequenceId:
    sequence_id = abort_in_decode(engine, inbox)
    engine.abort(sequence_id)
    engine.step()
    engine.abort(sequence_id)
    return sequence_id


@pytest.mark.parametrize(
    "begin_and_abort",
    [abort_before_its_submit_is_taken, abort_in_the_queue, abort_in_prefill, abort_in_decode, abort_twice],
)
def test_an_aborted_request_ends_once_and_at_the_next_step(
    begin_and_abort: Callable[[Engine, Inbox], SequenceId],
) -> None:
    engine, inbox = tiny_engine(max_streams=1, prefill_chunk=4), Inbox()
    sequence_id = begin_and_abort(engine, inbox)
    tokens = len(inbox.tokens(sequence_id))
    engine.step()
    assert inbox.finish_reason(sequence_id) == "abort"
    end = inbox.end(sequence_id)
    assert isinstance(end, Finished)
    assert end.completion_tokens == len(inbox.tokens(sequence_id)) == tokens
    run_until_idle(engine)
    assert inbox.finish_reason(sequence_id) == "abort"
    assert engine.counters().running == engine.counters().waiting == 0


def test_an_abort_of_a_request_that_has_finished_is_nothing() -> None:
    engine, inbox = tiny_engine(), Inbox()
    sequence_id = submit(engine, inbox, "hello", max_tokens=2)
    run_until_idle(engine)
    engine.abort(sequence_id)
    run_until_idle(engine)
    assert inbox.finish_reason(sequence_id) == "length"


def test_an_abort_of_a_request_that_never_was_is_nothing() -> None:
    engine, inbox = tiny_engine(), Inbox()
    sequence_id = submit(engine, inbox, "hello", max_tokens=4, temperature=0)
    engine.abort(sequence_id + 1000)
    engine.abort(-1)
    run_until_idle(engine)
    assert inbox.token_ids(sequence_id) == reference("llama", "hello", 4)
    assert engine.counters() == Counters(0, 0, 4)


def test_a_step_that_raises_ends_the_requests_in_it_and_the_engine_goes_on() -> None:
    engine, inbox = tiny_engine(max_streams=2, prefill_chunk=16), Inbox()
    decoding = submit(engine, inbox, "hello")
    prefilling = submit(engine, inbox, LONG_PROMPT)
    waiting = submit(engine, inbox, "hello", max_tokens=8, temperature=0)
    steps(engine, 2)
    leaving = submit(engine, inbox, "aborted while the step fails")
    engine.abort(leaving)
    arriving = submit(engine, inbox, "hello", max_tokens=8, temperature=0)
    mend = break_the_model(engine)
    engine.step()
    mend()
    for sequence_id in (decoding, prefilling):
        assert inbox.end(sequence_id) == Failed("RuntimeError: out of memory", "engine_error")
    run_until_idle(engine)
    for sequence_id in (waiting, arriving):
        assert inbox.token_ids(sequence_id) == reference("llama", "hello", 8)
    assert inbox.finish_reason(leaving) == "abort"
    assert engine.counters().running == engine.counters().waiting == 0


def test_what_a_failed_step_left_in_the_cache_is_not_reused() -> None:
    engine, inbox = tiny_engine(max_streams=1), Inbox()
    submit(engine, inbox, "hello", max_tokens=8)
    engine.step()
    mend = break_the_model(engine)
    engine.step()
    mend()
    assert engine.generate("hello", max_tokens=8, temperature=0)["cached_tokens"] == 0


def test_after_several_failed_steps_in_a_row_every_request_gets_the_error() -> None:
    engine, inbox = tiny_engine(max_streams=1), Inbox()
    requests = [submit(engine, inbox, "hello") for _ in range(MAX_FAILED_STEPS + 3)]
    break_the_model(engine)
    steps(engine, MAX_FAILED_STEPS - 1)
    with pytest.raises(EngineFailed, match="RuntimeError: out of memory"):
        engine.step()
    for sequence_id in requests:
        assert inbox.end(sequence_id) == Failed("RuntimeError: out of memory", "engine_error")
    assert engine.counters().running == engine.counters().waiting == 0


def test_failed_steps_that_are_not_in_a_row_do_not_end_the_engine() -> None:
    engine, inbox = tiny_engine(), Inbox()
    for _ in range(MAX_FAILED_STEPS + 1):
        submit(engine, inbox, "hello", max_tokens=8)
        mend = break_the_model(engine)
        engine.step()
        mend()
        assert engine.generate("hello", max_tokens=2)["finish_reason"] == "length"


class PanicException(BaseException):
    """What a library written in Rust raises where its code fails; it is no Exception."""


@pytest.mark.parametrize(
    "error", [IndexError("piece id is out of range"), PanicException("index out of bounds")], ids=repr
)
def test_a_request_whose_text_cannot_be_made_fails_alone(error: BaseException) -> None:
    engine, inbox = tiny_engine(), Inbox()
    unlucky_id = reference("llama", "unlucky", 3)[2]
    assert unlucky_id not in reference("llama", "lucky", 8)
    decode_all = engine._text.prompts._decode

    def brittle_decode(token_ids: Sequence[int]) -> str:
        if unlucky_id in token_ids:
            raise error
        return decode_all(token_ids)

    engine._text.prompts._decode = brittle_decode  # type: ignore[method-assign, assignment]
    lucky = submit(engine, inbox, "lucky", max_tokens=8, temperature=0)
    unlucky = submit(engine, inbox, "unlucky", max_tokens=8, temperature=0)
    run_until_idle(engine)
    assert inbox.end(unlucky) == Failed(f"{type(error).__name__}: {error}", "engine_error")
    assert len(inbox.tokens(unlucky)) == 2
    assert inbox.token_ids(lucky) == reference("llama", "lucky", 8)
    assert submit(engine, inbox, "the engine goes on", max_tokens=1)


def test_a_sink_that_raises_loses_its_own_requests_only() -> None:
    engine, inbox = tiny_engine(), Inbox()

    def broken_sink(events: StepEvents) -> None:
        raise RuntimeError("the reader has gone")

    engine.submit(engine.encode([text_request(prompt="hello", max_tokens=50)]), broken_sink)
    other = submit(engine, inbox, "hello", max_tokens=8, temperature=0)
    steps(engine, 2)
    assert engine.counters().running == 1
    run_until_idle(engine)
    assert inbox.token_ids(other) == reference("llama", "hello", 8)
    assert engine.counters() == Counters(0, 0, 9)


@pytest.mark.parametrize("tokenizer", [byte_tokenizer, bpe_tokenizer, syllable_tokenizer])
@pytest.mark.parametrize("seed", range(3))
def test_the_joined_text_is_the_decode_of_all_ids(tokenizer: Callable[[], PreTrainedTokenizerBase], seed: int) -> None:
    engine, inbox = tiny_engine(tokenizer=tokenizer(), max_streams=3), Inbox()
    requests = [
        submit(engine, inbox, "noise", max_tokens=100, temperature=2.0, seed=10 * seed + number, stop=["\x00\x00never"])
        for number in range(6)
    ]
    run_until_idle(engine)
    for sequence_id in requests:
        assert len(set(inbox.token_ids(sequence_id))) > 20, "this was to be noise"
        assert inbox.text(sequence_id) == decode(tokenizer(), inbox.token_ids(sequence_id))


def test_the_text_of_an_aborted_request_is_the_beginning_of_it() -> None:
    engine, inbox = tiny_engine(tokenizer=bpe_tokenizer()), Inbox()
    sequence_id = submit(engine, inbox, "noise", max_tokens=100, temperature=2.0, seed=3)
    steps(engine, 40)
    engine.abort(sequence_id)
    run_until_idle(engine)
    whole = decode(bpe_tokenizer(), inbox.token_ids(sequence_id))
    assert whole.startswith(inbox.text(sequence_id))
    assert set(whole.removeprefix(inbox.text(sequence_id))) <= {"\ufffd"}
