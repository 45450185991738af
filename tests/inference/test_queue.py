"""What the engine takes and refuses: a queue with a limit, prompts that fit, and nothing after a failure."""

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from engine import MAX_FAILED_STEPS
from interface.engine import Counters
from interface.errors import EngineFailed, PromptTooLong, QueueFull, TooManySequences, UnusablePrompt
from interface.requests import GenerationRequest, SequenceId, TextPrompt, text_request
from tests.support.probes import fail_for_good
from tests.support.tiny_models import (
    CONTEXT,
    VOCABULARY,
    Inbox,
    byte_tokenizer,
    fast_tokenizer,
    run_until_idle,
    submit,
    tiny_engine,
)


@pytest.mark.parametrize(("max_streams", "max_waiting"), [(1, 0), (2, 3)])
def test_the_queue_is_full_at_exactly_its_limit_and_free_again_after(max_streams: int, max_waiting: int) -> None:
    engine, inbox = tiny_engine(max_streams=max_streams, max_waiting=max_waiting), Inbox()
    limit = max_streams + max_waiting

    def fill(free: int, max_tokens: int) -> list[SequenceId]:
        requests = [submit(engine, inbox, "hello", max_tokens=max_tokens) for _ in range(free)]
        with pytest.raises(QueueFull, match=f"{limit} requests are running or waiting"):
            submit(engine, inbox, "one too many")
        return requests

    requests = fill(limit, max_tokens=1)
    engine.step()
    assert [bool(inbox.ends(sequence_id)) for sequence_id in requests] == [True] * max_streams + [False] * max_waiting
    fill(max_streams, max_tokens=9)
    run_until_idle(engine)
    requests = fill(limit, max_tokens=9)
    engine.step()
    engine.abort(requests[0])
    engine.abort(requests[-1])
    engine.step()
    fill(len({requests[0], requests[-1]}), max_tokens=9)


def test_the_counters_tell_what_the_engine_is_busy_with() -> None:
    engine, inbox = tiny_engine(max_streams=2, prefill_chunk=4), Inbox()
    assert engine.counters() == Counters(running=0, waiting=0, generated_tokens=0)
    requests = [submit(engine, inbox, "0123456789", max_tokens=3) for _ in range(3)]
    assert engine.counters() == Counters(running=0, waiting=3, generated_tokens=0)
    engine.step()
    assert engine.counters() == Counters(running=2, waiting=1, generated_tokens=1)
    engine.step()
    assert engine.counters() == Counters(running=2, waiting=1, generated_tokens=3)
    engine.abort(requests[1])
    engine.step()
    assert engine.counters() == Counters(running=1, waiting=0, generated_tokens=5)
    run_until_idle(engine)
    assert engine.counters() == Counters(running=0, waiting=0, generated_tokens=7)
    assert engine.counters().generated_tokens == sum(len(inbox.tokens(sequence_id)) for sequence_id in requests)


def test_a_failed_engine_takes_no_more_requests_and_says_why() -> None:
    engine, inbox = tiny_engine(), Inbox()
    fail_for_good(engine)
    for ask in (lambda: submit(engine, inbox, "hello"), engine.step, lambda: engine.generate("hello")):
        with pytest.raises(EngineFailed, match="RuntimeError: out of memory"):
            ask()
    engine.abort(1)
    assert engine.counters() == Counters(0, 0, 0, failed_steps=MAX_FAILED_STEPS)


@pytest.mark.parametrize(("length", "max_tokens"), [(CONTEXT, 1), (1, CONTEXT), (CONTEXT - 3, 4)])
def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers(length: int, max_tokens: int) -> None:
    engine = tiny_engine()
    with pytest.raises(PromptTooLong) as refused:
        engine.encode([text_request(prompt="x" * length, max_tokens=max_tokens)])
    assert (refused.value.prompt_tokens, refused.value.max_tokens, refused.value.context) == (
        length,
        max_tokens,
        CONTEXT,
    )


def test_a_prompt_without_tokens_is_refused() -> None:
    only_the_letter_a = fast_tokenizer(Tokenizer(BPE(vocab={"a": 5}, merges=[])))
    engine = tiny_engine(tokenizer=only_the_letter_a)
    assert list(engine.encode([text_request(prompt="bad", max_tokens=1)])[0].prompt_ids) == [5]
    with pytest.raises(UnusablePrompt, match="at least one token, got none"):
        engine.encode([text_request(prompt="odd", max_tokens=1)])


def test_a_prompt_with_a_token_that_the_model_lacks_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<new {number}>" for number in range(300)]})
    assert len(tokenizer) > VOCABULARY
    engine = tiny_engine(tokenizer=tokenizer)
    assert engine.encode([text_request(prompt="<new 1>", max_tokens=1)])[0].prompt_ids[0] < VOCABULARY
    with pytest.raises(UnusablePrompt, match=f"the model knows those below {VOCABULARY}"):
        engine.encode([text_request(prompt="<new 299>", max_tokens=1)])


def test_what_can_never_fit_is_told_apart_from_what_does_not_fit_now() -> None:
    engine, inbox = tiny_engine(max_streams=1, max_waiting=1), Inbox()
    encoded = engine.encode([GenerationRequest(TextPrompt("hello")) for _ in range(3)])
    with pytest.raises(TooManySequences, match=r"asks for 3 sequences .* holds 2 at once"):
        engine.submit(encoded, inbox)
    engine.submit(encoded[:2], inbox)
    with pytest.raises(QueueFull):
        engine.submit(encoded[2:], inbox)
