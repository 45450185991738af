"""What the engine promises: the invariants of its docstring, one by one, on tiny models."""

import threading
from collections.abc import Callable, Sequence

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from engine import Engine
from inference.cache.batch import Batch
from inference.scheduling.prefill_budget import LEAST
from inference.scheduling.scheduler import Schedule
from interface.request import (
    Counters,
    EncodedRequest,
    EngineFailed,
    Event,
    Failed,
    Finished,
    GenerationRequest,
    PromptTooLong,
    QueueFull,
    RequestId,
    Token,
    UnusablePrompt,
)
from tests.support.tiny_models import (
    CONTEXT,
    VOCABULARY,
    Inbox,
    bpe_tokenizer,
    byte_tokenizer,
    decode,
    fast_tokenizer,
    reference,
    run_until_idle,
    submit,
    syllable_tokenizer,
    tiny_engine,
)

LONG_PROMPT = "a long prompt, " * 6


def spy_on_schedules(engine: Engine) -> list[Schedule]:
    """What every forward from now on is to work on."""
    schedules: list[Schedule] = []
    forward = engine._runner.forward

    def spying_forward(schedule: Schedule) -> Tensor:
        schedules.append(schedule)
        return forward(schedule)

    engine._runner.forward = spying_forward  # type: ignore[method-assign]
    return schedules


def break_the_model(engine: Engine) -> None:
    """From now on every forward raises."""

    def broken_forward(schedule: Schedule) -> Tensor:
        raise RuntimeError("out of memory")

    engine._runner.forward = broken_forward  # type: ignore[method-assign]


def steps(engine: Engine, number: int) -> None:
    for _ in range(number):
        engine.step()


# --- 1. Every request ends in exactly one terminal event --------------------------------------------------------------


def test_a_request_ends_once_when_it_has_all_its_tokens() -> None:
    engine, inbox = tiny_engine(), Inbox()
    request_id = submit(engine, inbox, "hello", max_tokens=5)
    run_until_idle(engine)
    steps(engine, 3)
    assert inbox.finish_reason(request_id) == "length"
    assert len(inbox.tokens(request_id)) == 5


def abort_before_its_submit_is_taken(engine: Engine, inbox: Inbox) -> RequestId:
    request_id = submit(engine, inbox, "hello")
    engine.abort(request_id)
    return request_id


def abort_in_the_queue(engine: Engine, inbox: Inbox) -> RequestId:
    submit(engine, inbox, "the one that has the slot", max_tokens=6)
    request_id = submit(engine, inbox, "hello")
    engine.step()
    assert engine.counters().waiting == 1
    engine.abort(request_id)
    return request_id


def abort_in_prefill(engine: Engine, inbox: Inbox) -> RequestId:
    request_id = submit(engine, inbox, LONG_PROMPT)
    steps(engine, 2)
    assert (engine.counters().running, inbox.events[request_id]) == (1, [])
    engine.abort(request_id)
    return request_id


def abort_in_decode(engine: Engine, inbox: Inbox) -> RequestId:
    request_id = submit(engine, inbox, "hello")
    steps(engine, 3)
    assert inbox.tokens(request_id)
    engine.abort(request_id)
    return request_id


def abort_twice(engine: Engine, inbox: Inbox) -> RequestId:
    request_id = abort_in_decode(engine, inbox)
    engine.abort(request_id)
    engine.step()
    engine.abort(request_id)
    return request_id


@pytest.mark.parametrize(
    "begin_and_abort",
    [abort_before_its_submit_is_taken, abort_in_the_queue, abort_in_prefill, abort_in_decode, abort_twice],
)
def test_an_aborted_request_ends_once_and_at_the_next_step(
    begin_and_abort: Callable[[Engine, Inbox], RequestId],
) -> None:
    engine, inbox = tiny_engine(max_streams=1, prefill_chunk=4), Inbox()
    request_id = begin_and_abort(engine, inbox)
    tokens = len(inbox.tokens(request_id))
    engine.step()
    assert inbox.finish_reason(request_id) == "abort"
    end = inbox.end(request_id)
    assert isinstance(end, Finished)
    assert end.completion_tokens == len(inbox.tokens(request_id)) == tokens
    run_until_idle(engine)
    assert inbox.finish_reason(request_id) == "abort"
    assert engine.counters().running == engine.counters().waiting == 0


def test_an_abort_of_a_request_that_has_finished_is_nothing() -> None:
    engine, inbox = tiny_engine(), Inbox()
    request_id = submit(engine, inbox, "hello", max_tokens=2)
    run_until_idle(engine)
    engine.abort(request_id)
    run_until_idle(engine)
    assert inbox.finish_reason(request_id) == "length"


def test_an_abort_of_a_request_that_never_was_is_nothing() -> None:
    engine, inbox = tiny_engine(), Inbox()
    request_id = submit(engine, inbox, "hello", max_tokens=4, temperature=0)
    engine.abort(request_id + 1000)
    engine.abort(-1)
    run_until_idle(engine)
    assert inbox.token_ids(request_id) == reference("llama", "hello", 4)
    assert engine.counters() == Counters(0, 0, 4)


def test_every_request_gets_the_error_of_the_step_that_raised() -> None:
    engine, inbox = tiny_engine(max_streams=2, prefill_chunk=16), Inbox()
    decoding = submit(engine, inbox, "hello")
    prefilling = submit(engine, inbox, LONG_PROMPT)
    waiting = submit(engine, inbox, "hello")
    steps(engine, 2)
    leaving = submit(engine, inbox, "aborted while the step fails")
    engine.abort(leaving)
    arriving = submit(engine, inbox, "hello")
    break_the_model(engine)
    with pytest.raises(EngineFailed, match="RuntimeError: out of memory"):
        engine.step()
    for request_id in (decoding, prefilling, waiting, arriving):
        assert inbox.end(request_id) == Failed("RuntimeError: out of memory", "engine_error")
    assert inbox.finish_reason(leaving) == "abort"
    assert engine.counters().running == engine.counters().waiting == 0


def test_a_request_whose_text_cannot_be_made_fails_alone() -> None:
    engine, inbox = tiny_engine(), Inbox()
    unlucky_id = reference("llama", "unlucky", 3)[2]
    assert unlucky_id not in reference("llama", "lucky", 8)
    decode_all = engine._decode

    def brittle_decode(token_ids: Sequence[int]) -> str:
        if unlucky_id in token_ids:
            raise IndexError("piece id is out of range")
        return decode_all(token_ids)

    engine._decode = brittle_decode  # type: ignore[method-assign]
    lucky = submit(engine, inbox, "lucky", max_tokens=8, temperature=0)
    unlucky = submit(engine, inbox, "unlucky", max_tokens=8, temperature=0)
    run_until_idle(engine)
    assert inbox.end(unlucky) == Failed("IndexError: piece id is out of range", "engine_error")
    assert len(inbox.tokens(unlucky)) == 2
    assert inbox.token_ids(lucky) == reference("llama", "lucky", 8)
    assert submit(engine, inbox, "the engine goes on", max_tokens=1)


def test_a_sink_that_raises_loses_its_requests_and_nobody_elses() -> None:
    engine, inbox = tiny_engine(), Inbox()

    def broken_sink(events: Sequence[tuple[RequestId, Event]]) -> None:
        raise RuntimeError("nobody is there")

    engine.submit(engine.encode(GenerationRequest(prompt="hello", max_tokens=50)), broken_sink)
    other = submit(engine, inbox, "hello", max_tokens=8, temperature=0)
    steps(engine, 2)
    assert engine.counters().running == 1
    run_until_idle(engine)
    assert inbox.token_ids(other) == reference("llama", "hello", 8)
    assert engine.counters() == Counters(0, 0, 9)


# --- 2. The texts of the tokens are the decode of their ids -----------------------------------------------------------


@pytest.mark.parametrize("tokenizer", [byte_tokenizer, bpe_tokenizer, syllable_tokenizer])
@pytest.mark.parametrize("seed", range(3))
def test_the_joined_text_is_the_decode_of_all_ids(tokenizer: Callable[[], PreTrainedTokenizerBase], seed: int) -> None:
    engine, inbox = tiny_engine(tokenizer=tokenizer(), max_streams=3), Inbox()
    requests = [
        submit(engine, inbox, "noise", max_tokens=100, temperature=2.0, seed=10 * seed + number, stop=["\x00\x00never"])
        for number in range(6)
    ]
    run_until_idle(engine)
    for request_id in requests:
        assert len(set(inbox.token_ids(request_id))) > 20, "this was to be noise"
        assert inbox.text(request_id) == decode(tokenizer(), inbox.token_ids(request_id))


def test_the_text_of_an_aborted_request_is_the_beginning_of_it() -> None:
    engine, inbox = tiny_engine(tokenizer=bpe_tokenizer()), Inbox()
    request_id = submit(engine, inbox, "noise", max_tokens=100, temperature=2.0, seed=3)
    steps(engine, 40)
    engine.abort(request_id)
    run_until_idle(engine)
    whole = decode(bpe_tokenizer(), inbox.token_ids(request_id))
    assert whole.startswith(inbox.text(request_id))
    assert set(whole.removeprefix(inbox.text(request_id))) <= {"\ufffd"}


# --- 3. An abort is in force at the next step -------------------------------------------------------------------------


def test_the_slot_of_an_aborted_request_is_used_in_the_same_step() -> None:
    engine, inbox = tiny_engine(max_streams=1), Inbox()
    leaving, staying = submit(engine, inbox, "first"), submit(engine, inbox, "next", max_tokens=3)
    steps(engine, 2)
    assert inbox.events[staying] == []
    engine.abort(leaving)
    engine.step()
    assert inbox.finish_reason(leaving) == "abort"
    assert len(inbox.tokens(staying)) == 1


def test_an_aborted_request_costs_no_more_forwards() -> None:
    engine, inbox = tiny_engine(), Inbox()
    request_id = submit(engine, inbox, "hello")
    engine.step()
    schedules = spy_on_schedules(engine)
    engine.abort(request_id)
    assert not engine.step()
    assert schedules == []


# --- Steps: bounded, one forward, a token for everybody ---------------------------------------------------------------


@pytest.mark.parametrize("prefill_chunk", [1, 8, 17])
def test_no_step_prefills_more_than_four_chunks(prefill_chunk: int) -> None:
    engine, inbox = tiny_engine(max_streams=4, prefill_chunk=prefill_chunk), Inbox()
    schedules = spy_on_schedules(engine)
    lengths = [3, 50, 1, 20, 90]
    for letter, length in zip("abcde", lengths, strict=True):  # no prompt begins like another
        submit(engine, inbox, letter * length, max_tokens=4)
    run_until_idle(engine)
    prefilled = [schedule.prompt_tokens for schedule in schedules]
    assert max(prefilled) == 4 * prefill_chunk
    assert sum(prefilled) == sum(lengths), "every prompt token is prefilled once"


def test_where_prompts_outnumber_the_streams_a_step_takes_the_more_of_them_the_more_there_are() -> None:
    engine, inbox = tiny_engine(max_streams=16, prefill_chunk=2), Inbox()
    for _ in range(2):
        submit(engine, inbox, "a", max_tokens=40)
    steps(engine, 2)
    schedules = spy_on_schedules(engine)
    for letter in "bcdefg":
        submit(engine, inbox, letter * 8, max_tokens=40)
    steps(engine, 7)
    decoding = [len(schedule.decoding) for schedule in schedules]
    assert decoding == [2, 3, 3, 4, 4, 4, 4]
    assert [schedule.prompt_tokens for schedule in schedules] == [8, 4, 4, 2, 2, 2, 2]


def test_running_streams_get_a_token_in_every_step_while_a_long_prompt_is_prefilled() -> None:
    engine, inbox = tiny_engine(max_streams=4, prefill_chunk=4), Inbox()
    streams = [submit(engine, inbox, "abc", max_tokens=60) for _ in range(3)]
    steps(engine, 4)
    long = submit(engine, inbox, LONG_PROMPT, max_tokens=2)
    prefill_steps = 0
    while not inbox.tokens(long):
        before = [len(inbox.tokens(stream)) for stream in streams]
        engine.step()
        prefill_steps += 1
        assert [len(inbox.tokens(stream)) for stream in streams] == [number + 1 for number in before]
    assert prefill_steps == -(-len(LONG_PROMPT) // 4)


def test_a_prompt_whose_tokens_take_long_goes_in_by_the_smallest_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, inbox = tiny_engine(max_streams=4, prefill_chunk=64), Inbox()
    scheduler = engine._scheduler
    took = scheduler.took

    def by_a_made_up_clock(schedule: Schedule, seconds: float) -> None:
        took(schedule, 0.005 * (len(schedule.decoding) + schedule.prompt_tokens))

    monkeypatch.setattr(scheduler, "took", by_a_made_up_clock)
    for _ in range(2):
        submit(engine, inbox, "a" * 20, max_tokens=60)
    steps(engine, 4)
    schedules = spy_on_schedules(engine)
    long = submit(engine, inbox, LONG_PROMPT, max_tokens=1)
    while not inbox.tokens(long):
        engine.step()
    assert {schedule.prompt_tokens for schedule in schedules[:-1]} == {LEAST}
    assert sum(schedule.prompt_tokens for schedule in schedules) == len(LONG_PROMPT)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_step_is_one_forward_whatever_it_works_on(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, inbox, forwards = tiny_engine(architecture, max_streams=4, prefill_chunk=16), Inbox(), 0
    decoder = engine._runner._decoder
    forward = decoder.forward

    def counted(batch: Batch) -> Tensor:
        nonlocal forwards
        forwards += 1
        return forward(batch)

    monkeypatch.setattr(decoder, "forward", counted)
    for number in range(9):
        submit(engine, inbox, "x" * (1 + 7 * number), max_tokens=3 + number)
    taken = run_until_idle(engine)
    assert forwards == taken


def test_an_idle_engine_runs_no_forward() -> None:
    engine = tiny_engine()
    schedules = spy_on_schedules(engine)
    assert [engine.step() for _ in range(3)] == [False] * 3
    engine.abort(7)
    assert engine.step() is False
    assert schedules == []


def test_a_step_tells_whether_there_is_more_to_do() -> None:
    engine, inbox = tiny_engine(max_streams=1), Inbox()
    submit(engine, inbox, "one", max_tokens=2)
    submit(engine, inbox, "two", max_tokens=1)
    assert [engine.step() for _ in range(4)] == [True, True, False, False]


def test_requests_are_admitted_in_the_order_of_their_coming() -> None:
    engine, inbox = tiny_engine(max_streams=2, prefill_chunk=8), Inbox()
    order: list[RequestId] = []

    def sink(events: Sequence[tuple[RequestId, Event]]) -> None:
        order.extend(request_id for request_id, event in events if isinstance(event, Token) and event.is_first)
        inbox(events)

    lengths = [40, 2, 30, 1, 1, 25, 1]
    requests = [
        engine.submit(engine.encode(GenerationRequest(prompt="x" * length, max_tokens=5)), sink) for length in lengths
    ]
    run_until_idle(engine)
    assert order == requests


def test_a_sink_is_called_once_per_step_for_all_its_requests() -> None:
    engine = tiny_engine(max_streams=4)
    calls: list[list[tuple[RequestId, Event]]] = []

    class Sink:
        def take(self, events: Sequence[tuple[RequestId, Event]]) -> None:
            calls.append(list(events))

    sink = Sink()  # each `sink.take` is an object of its own, and yet they are one sink
    requests = [engine.submit(engine.encode(GenerationRequest(prompt="x", max_tokens=3)), sink.take) for _ in range(2)]
    assert run_until_idle(engine) == len(calls) == 3
    assert [request_id for request_id, _ in calls[0]] == requests
    assert [len(call) for call in calls] == [2, 2, 4]


def test_the_first_token_is_marked_and_the_times_add_up() -> None:
    engine, inbox = tiny_engine(prefill_chunk=8), Inbox()
    request_id = submit(engine, inbox, LONG_PROMPT, max_tokens=5)
    run_until_idle(engine)
    end = inbox.end(request_id)
    assert isinstance(end, Finished)
    assert (end.prompt_tokens, end.completion_tokens) == (len(LONG_PROMPT), 5)
    first, *others = inbox.tokens(request_id)
    assert first.is_first
    assert not any(token.is_first for token in others)
    assert end.prefill_ms == first.ms > 0
    assert end.decode_ms == pytest.approx(sum(token.ms for token in others))
    assert end.total_ms >= end.prefill_ms + end.decode_ms


# --- The queue and the counters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("max_streams", "max_waiting"), [(1, 0), (2, 3)])
def test_the_queue_is_full_at_exactly_its_limit_and_free_again_after(max_streams: int, max_waiting: int) -> None:
    engine, inbox = tiny_engine(max_streams=max_streams, max_waiting=max_waiting), Inbox()
    limit = max_streams + max_waiting

    def fill(free: int, max_tokens: int) -> list[RequestId]:
        requests = [submit(engine, inbox, "hello", max_tokens=max_tokens) for _ in range(free)]
        with pytest.raises(QueueFull, match=f"{limit} requests are running or waiting"):
            submit(engine, inbox, "one too many")
        return requests

    requests = fill(limit, max_tokens=1)
    engine.step()
    assert [bool(inbox.ends(request_id)) for request_id in requests] == [True] * max_streams + [False] * max_waiting
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
    assert engine.counters().generated_tokens == sum(len(inbox.tokens(request_id)) for request_id in requests)


# --- 5. A failed engine -----------------------------------------------------------------------------------------------


def test_a_failed_engine_takes_no_more_requests_and_says_why() -> None:
    engine, inbox = tiny_engine(), Inbox()
    submit(engine, inbox, "hello")
    break_the_model(engine)
    with pytest.raises(EngineFailed):
        engine.step()
    for ask in (lambda: submit(engine, inbox, "hello"), engine.step, lambda: engine.generate("hello")):
        with pytest.raises(EngineFailed, match="RuntimeError: out of memory"):
            ask()
    engine.abort(1)
    assert engine.counters() == Counters(0, 0, 0)


# --- Prompts that the model cannot take -------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "max_tokens"), [(CONTEXT, 1), (1, CONTEXT), (CONTEXT - 3, 4)])
def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers(length: int, max_tokens: int) -> None:
    engine = tiny_engine()
    with pytest.raises(PromptTooLong) as refused:
        engine.encode(GenerationRequest(prompt="x" * length, max_tokens=max_tokens))
    assert (refused.value.prompt_tokens, refused.value.max_tokens, refused.value.context) == (
        length,
        max_tokens,
        CONTEXT,
    )


def test_a_prompt_without_tokens_is_refused() -> None:
    only_the_letter_a = fast_tokenizer(Tokenizer(BPE(vocab={"a": 5}, merges=[])))
    engine = tiny_engine(tokenizer=only_the_letter_a)
    assert list(engine.encode(GenerationRequest(prompt="bad", max_tokens=1)).prompt_ids) == [5]
    with pytest.raises(UnusablePrompt, match="no tokens"):
        engine.encode(GenerationRequest(prompt="odd", max_tokens=1))


def test_a_prompt_with_a_token_that_the_model_lacks_is_refused() -> None:
    tokenizer = byte_tokenizer.__wrapped__()
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<new {number}>" for number in range(300)]})
    assert len(tokenizer) > VOCABULARY
    engine = tiny_engine(tokenizer=tokenizer)
    assert engine.encode(GenerationRequest(prompt="<new 1>", max_tokens=1)).prompt_ids[0] < VOCABULARY
    with pytest.raises(UnusablePrompt, match=f"the model knows those below {VOCABULARY}"):
        engine.encode(GenerationRequest(prompt="<new 299>", max_tokens=1))


# --- Threads ----------------------------------------------------------------------------------------------------------


def test_threads_that_step_at_once_take_turns() -> None:
    engine, inbox = tiny_engine(), Inbox()
    request_id = submit(engine, inbox, "hello", max_tokens=40, temperature=0)
    forward = engine._runner.forward
    inside, overlaps, steppers = threading.Lock(), [], set()

    def checked_forward(schedule: Schedule) -> Tensor:
        steppers.add(threading.get_ident())
        overlaps.append(not inside.acquire(blocking=False))
        try:
            return forward(schedule)
        finally:
            inside.release()

    engine._runner.forward = checked_forward  # type: ignore[method-assign]
    start = threading.Barrier(4)

    def step_until_done() -> None:
        start.wait()
        while not inbox.ends(request_id):
            engine.step()

    threads = [threading.Thread(target=step_until_done) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == [False] * 40
    assert inbox.token_ids(request_id) == reference("llama", "hello", 40)


def test_a_submit_and_an_abort_do_not_wait_for_the_step_that_is_running() -> None:
    engine, inbox = tiny_engine(), Inbox()
    first = submit(engine, inbox, "hello", max_tokens=2)
    forward = engine._runner.forward
    in_forward, go_on = threading.Event(), threading.Event()

    def slow_forward(schedule: Schedule) -> Tensor:
        in_forward.set()
        assert go_on.wait(30)
        return forward(schedule)

    engine._runner.forward = slow_forward  # type: ignore[method-assign]
    stepper = threading.Thread(target=engine.step)
    stepper.start()
    assert in_forward.wait(30)
    second = submit(engine, inbox, "hello", max_tokens=1)
    engine.abort(first)
    assert engine.counters().running == 1
    go_on.set()
    stepper.join()
    assert [len(inbox.tokens(request_id)) for request_id in (first, second)] == [1, 0]
    run_until_idle(engine)
    assert [inbox.finish_reason(request_id) for request_id in (first, second)] == ["abort", "length"]


def test_a_sink_may_wait_for_a_thread_that_uses_the_engine() -> None:
    engine = tiny_engine()
    answered: list[bool] = []

    def sink(events: Sequence[tuple[RequestId, Event]]) -> None:
        other = threading.Thread(target=engine.abort, args=(0,))
        other.start()
        other.join(20)
        answered.append(not other.is_alive())

    request_id = engine.submit(engine.encode(GenerationRequest(prompt="hello", max_tokens=9)), sink)
    stream = engine.generate_stream("hello", max_tokens=9)
    next(stream)
    engine.abort(request_id)
    stream.close()  # type: ignore[attr-defined]
    assert answered
    assert all(answered)


def test_encoding_touches_no_state_and_submitting_runs_nothing() -> None:
    engine, inbox = tiny_engine(), Inbox()
    schedules = spy_on_schedules(engine)
    encoded = engine.encode(GenerationRequest(prompt="hello", max_tokens=3, temperature=0))
    assert isinstance(encoded, EncodedRequest)
    requests = [engine.submit(encoded, inbox) for _ in range(2)]
    assert schedules == []
    run_until_idle(engine)
    assert {tuple(inbox.token_ids(request_id)) for request_id in requests} == {tuple(reference("llama", "hello", 3))}


def test_logits_are_not_kept_for_gradients() -> None:
    engine, inbox = tiny_engine(), Inbox()
    submit(engine, inbox, "hello", max_tokens=2)
    seen: list[Tensor] = []
    forward = engine._runner.forward

    def keeping_forward(schedule: Schedule) -> Tensor:
        seen.append(forward(schedule))
        return seen[-1]

    engine._runner.forward = keeping_forward  # type: ignore[method-assign]
    run_until_idle(engine)
    assert len(seen) == 2
    assert all(torch.is_inference(logits) for logits in seen)
