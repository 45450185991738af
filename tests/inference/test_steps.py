"""Steps are bounded, one forward each, and bring every running sequence one token further."""

import pytest
from torch import Tensor

from engine import Engine
from inference.cache.batch import Batch
from inference.scheduling.prefill_budget import MIN_TOKENS, PrefillBudget
from inference.scheduling.scheduler import Schedule
from interface.engine import StepEvents
from interface.events import Event, Finished, Token
from interface.requests import SequenceId, text_request
from tests.support.probes import LONG_PROMPT, spy_on_schedules, steps
from tests.support.tiny_models import Inbox, run_until_idle, submit, tiny_engine


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


def test_the_first_of_many_prompts_does_not_wait_for_those_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrefillBudget, "enough", lambda _, most: min(most, 16))
    engine, inbox = tiny_engine(max_streams=8, prefill_chunk=32), Inbox()
    schedules = spy_on_schedules(engine)
    for letter, length in zip("abcde", [20, 10, 10, 4, 40], strict=True):
        submit(engine, inbox, letter * length, max_tokens=40)
    steps(engine, 4)
    chunks = [[chunk.end - chunk.start for chunk in schedule.chunks] for schedule in schedules]
    assert chunks == [[20], [10, 10], [4, 16], [24]], "a prompt is left out once there are 16 tokens"


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


def with_tokens_that_take_long(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a made-up clock, a prompt may have no more than the smallest pieces next to a few streams."""
    scheduler = engine._scheduler
    record_step = scheduler.record_step

    def by_a_made_up_clock(schedule: Schedule, seconds: float) -> None:
        record_step(schedule, 0.005 * (len(schedule.decoding) + schedule.prompt_tokens))

    monkeypatch.setattr(scheduler, "record_step", by_a_made_up_clock)


def test_a_prompt_whose_tokens_take_long_goes_in_by_the_smallest_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, inbox = tiny_engine(max_streams=4, prefill_chunk=64), Inbox()
    with_tokens_that_take_long(engine, monkeypatch)
    for _ in range(2):
        submit(engine, inbox, "a" * 20, max_tokens=60)
    steps(engine, 4)
    schedules = spy_on_schedules(engine)
    long = submit(engine, inbox, LONG_PROMPT, max_tokens=1)
    while not inbox.tokens(long):
        engine.step()
    assert {schedule.prompt_tokens for schedule in schedules[:-1]} == {MIN_TOKENS}
    assert sum(schedule.prompt_tokens for schedule in schedules) == len(LONG_PROMPT)


def four_prompts_next_to_four_streams(engine: Engine, inbox: Inbox, tokens: int) -> list[Schedule]:
    """Submit four prompts of so many tokens where four streams run; the list gets the schedules from there on."""
    for letter in "abcd":
        submit(engine, inbox, letter * 8, max_tokens=60)
    steps(engine, 4)
    schedules = spy_on_schedules(engine)
    for letter in "efgh":
        submit(engine, inbox, letter * tokens, max_tokens=60)
    return schedules


def test_the_more_prompts_wait_for_each_stream_the_nearer_to_a_whole_chunk_is_what_a_step_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, inbox = tiny_engine(max_streams=8, prefill_chunk=64), Inbox()
    with_tokens_that_take_long(engine, monkeypatch)
    schedules = four_prompts_next_to_four_streams(engine, inbox, tokens=64)
    steps(engine, 4)
    whole, spared = 64, MIN_TOKENS
    of_three_prompts, of_two = spared + (whole - spared) * 2 // 4, spared + (whole - spared) * 1 // 5
    assert [len(schedule.decoding) for schedule in schedules] == [4, 5, 5, 6]
    assert [schedule.prompt_tokens for schedule in schedules] == [whole, of_three_prompts, of_three_prompts, of_two]


def test_several_long_prompts_delay_the_streams_as_little_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, inbox = tiny_engine(max_streams=8, prefill_chunk=20), Inbox()
    with_tokens_that_take_long(engine, monkeypatch)
    schedules = four_prompts_next_to_four_streams(engine, inbox, tokens=60)
    steps(engine, 2)
    assert [schedule.prompt_tokens for schedule in schedules] == [MIN_TOKENS, MIN_TOKENS]


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


def test_requests_are_admitted_first_come_first_served() -> None:
    engine, inbox = tiny_engine(max_streams=2, prefill_chunk=8), Inbox()
    order: list[SequenceId] = []

    def sink(events: StepEvents) -> None:
        order.extend(sequence_id for sequence_id, event in events if isinstance(event, Token) and event.is_first)
        inbox(events)

    lengths = [40, 2, 30, 1, 1, 25, 1]
    requests = [text_request(prompt="x" * length, max_tokens=5) for length in lengths]
    engine.submit(engine.encode(requests), sink)
    run_until_idle(engine)
    assert order == [request.sequence_id for request in requests]


def test_a_sink_is_called_once_per_step_for_all_its_requests() -> None:
    engine = tiny_engine(max_streams=4)
    calls: list[list[tuple[SequenceId, Event]]] = []

    class Sink:
        def take(self, events: StepEvents) -> None:
            calls.append(list(events))

    sink = Sink()  # each `sink.take` is an object of its own, and yet they are one sink
    requests = [text_request(prompt="x", max_tokens=3) for _ in range(2)]
    for request in requests:
        engine.submit(engine.encode([request]), sink.take)
    assert run_until_idle(engine) == len(calls) == 3
    assert [sequence_id for sequence_id, _ in calls[0]] == [request.sequence_id for request in requests]
    assert [len(call) for call in calls] == [2, 2, 4]


def test_the_first_token_is_marked_and_the_times_add_up() -> None:
    engine, inbox = tiny_engine(prefill_chunk=8), Inbox()
    sequence_id = submit(engine, inbox, LONG_PROMPT, max_tokens=5)
    run_until_idle(engine)
    end = inbox.end(sequence_id)
    assert isinstance(end, Finished)
    assert (end.prompt_tokens, end.completion_tokens) == (len(LONG_PROMPT), 5)
    first, *others = inbox.tokens(sequence_id)
    assert first.is_first
    assert not any(token.is_first for token in others)
    assert end.prefill_ms == first.ms > 0
    assert end.decode_ms == pytest.approx(sum(token.ms for token in others))
    assert end.total_ms >= end.prefill_ms + end.decode_ms


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
    sequence_id = submit(engine, inbox, "hello")
    engine.step()
    schedules = spy_on_schedules(engine)
    engine.abort(sequence_id)
    assert not engine.step()
    assert schedules == []
