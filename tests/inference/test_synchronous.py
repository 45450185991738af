"""`generate` and `generate_stream`: the engine for blocking callers, on any number of threads."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from torch import Tensor

from engine import MAX_FAILED_STEPS, Engine
from inference.scheduling.scheduler import Schedule
from interface.engine import Counters, StepEvents
from interface.errors import EngineFailed, PromptTooLong, QueueFull
from interface.requests import text_request
from tests.support.tiny_models import Inbox, byte_tokenizer, decode, reference, submit, tiny_engine

PROMPTS = [f"prompt number {number}" + "!" * number for number in range(20)]
WAIT = 30.0
"""Seconds after which a test that waits has failed."""


def join(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.join(WAIT)
    assert not any(thread.is_alive() for thread in threads), "a caller is waiting for ever"


@contextmanager
def stepping_thread(engine: Engine) -> Iterator[None]:
    """A thread that steps the engine while there is work, as the driver's does."""
    stop = threading.Event()

    def drive() -> None:
        while not stop.is_set():
            engine.turns.step()
            if engine.counters().running == 0:
                stop.wait(0.001)

    thread = threading.Thread(target=drive)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        join([thread])


# --- What they return -------------------------------------------------------------------------------------------------


def test_generate_returns_what_the_service_answers() -> None:
    answer = tiny_engine().generate("hello", max_tokens=5, temperature=0)
    assert list(answer) == [
        "text",
        "token_ids",
        "finish_reason",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "prefill_time_ms",
        "decode_time_ms",
        "total_time_ms",
        "tokens_per_second",
    ]
    assert answer["token_ids"] == reference("llama", "hello", 5)
    assert answer["text"] == decode(byte_tokenizer(), answer["token_ids"])
    assert (answer["finish_reason"], answer["prompt_tokens"], answer["completion_tokens"]) == ("length", 5, 5)
    assert 0 < answer["prefill_time_ms"] + answer["decode_time_ms"] <= answer["total_time_ms"] + 0.002
    assert answer["tokens_per_second"] == pytest.approx(1e3 * 5 / answer["total_time_ms"], rel=0.01)


def test_generate_stream_yields_what_the_service_sends() -> None:
    engine = tiny_engine()
    first, *others, end = engine.generate_stream("hello", max_tokens=5, temperature=0)
    assert list(first) == ["token", "token_id", "prefill_time_ms"]
    assert all(list(token) == ["token", "token_id", "step_ms"] for token in others)
    assert list(end) == ["finish_reason", "prompt_tokens", "cached_tokens", "completion_tokens", "total_time_ms"]
    assert (end["finish_reason"], end["prompt_tokens"], end["completion_tokens"]) == ("length", 5, 5)
    assert [token["token_id"] for token in [first, *others]] == reference("llama", "hello", 5)


def test_a_stream_makes_its_tokens_as_they_are_asked_for() -> None:
    engine = tiny_engine()
    stream = engine.generate_stream("hello", max_tokens=5)
    assert engine.counters() == Counters(0, 0, 0)
    for number in range(1, 6):
        next(stream)
        assert engine.counters().generated_tokens == number


# --- Leaving early ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [1, 3])
def test_closing_a_stream_early_frees_its_slot_at_once(taken: int) -> None:
    engine = tiny_engine(max_streams=1, max_waiting=0)
    stream = engine.generate_stream("hello", max_tokens=50)
    for _ in range(taken):
        next(stream)
    with pytest.raises(QueueFull):
        engine.generate("no room")
    stream.close()  # type: ignore[attr-defined]
    assert engine.counters() == Counters(0, 0, taken)
    assert engine.generate("hello", max_tokens=3, temperature=0)["token_ids"] == reference("llama", "hello", 3)


def test_a_stream_that_is_forgotten_frees_its_slot_too() -> None:
    engine = tiny_engine(max_streams=1, max_waiting=0)
    for _ in engine.generate_stream("hello", max_tokens=50):
        break
    assert engine.counters().running == 0


def test_leaving_a_stream_changes_nothing_for_another() -> None:
    engine = tiny_engine()
    staying = engine.generate_stream("hello", max_tokens=12, temperature=0)
    leaving = engine.generate_stream("bye", max_tokens=50)
    tokens = []
    for number, event in enumerate(staying):
        tokens.append(event)
        if number < 5:
            next(leaving)
        elif number == 5:
            leaving.close()  # type: ignore[attr-defined]
    assert [token["token_id"] for token in tokens[:-1]] == reference("llama", "hello", 12)
    assert engine.counters().running == 0


def test_a_caller_whose_request_is_aborted_by_another_gets_the_text_so_far() -> None:
    engine = tiny_engine()
    stream = engine.generate_stream("hello", max_tokens=50)
    next(stream)
    (sequence,) = engine._scheduler.sequences
    engine.abort(sequence.sequence_id)
    *_, end = stream
    assert end["finish_reason"] == "abort"


# --- Many at once -----------------------------------------------------------------------------------------------------


def generate_on_threads(engine: Engine, prompts: Sequence[str], **settings: Any) -> list[list[int]]:
    """One thread for each prompt, half of them streaming; all begin together."""
    results: list[list[int]] = [[] for _ in prompts]
    start = threading.Barrier(len(prompts))

    def call(number: int) -> None:
        start.wait(WAIT)
        if number % 2:
            results[number] = engine.generate(prompts[number], **settings)["token_ids"]
        else:
            events = list(engine.generate_stream(prompts[number], **settings))
            results[number] = [event["token_id"] for event in events[:-1]]

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(prompts))]
    for thread in threads:
        thread.start()
    join(threads)
    return results


def test_twenty_threads_share_an_engine() -> None:
    engine = tiny_engine(max_streams=6, prefill_chunk=16)
    results = generate_on_threads(engine, PROMPTS, max_tokens=12, temperature=0)
    assert results == [reference("llama", prompt, 12) for prompt in PROMPTS]
    assert engine.counters() == Counters(0, 0, 20 * 12)


def test_twenty_threads_share_an_engine_with_one_that_steps_it() -> None:
    engine, inbox = tiny_engine(max_streams=6, prefill_chunk=16), Inbox()
    drivens = [submit(engine, inbox, prompt, max_tokens=20, temperature=0) for prompt in PROMPTS[:4]]
    with stepping_thread(engine):
        results = generate_on_threads(engine, PROMPTS, max_tokens=12, temperature=0)
    while engine.step():
        pass
    assert results == [reference("llama", prompt, 12) for prompt in PROMPTS]
    for prompt, driven in zip(PROMPTS, drivens, strict=False):
        assert inbox.token_ids(driven) == reference("llama", prompt, 20)
    assert engine.counters() == Counters(0, 0, 20 * 12 + 4 * 20)


def test_what_others_have_submitted_moves_on_while_a_caller_waits() -> None:
    engine, inbox = tiny_engine(), Inbox()
    other = submit(engine, inbox, "hello", max_tokens=5, temperature=0)
    engine.generate("a caller", max_tokens=10)
    assert inbox.token_ids(other) == reference("llama", "hello", 5)


def test_a_caller_waits_for_a_step_that_another_thread_runs() -> None:
    engine = tiny_engine()
    forward = engine._runner.forward
    in_forward, go_on = threading.Event(), threading.Event()

    def slow_forward(schedule: Schedule) -> Tensor:
        in_forward.set()
        assert go_on.wait(WAIT)
        return forward(schedule)

    engine._runner.forward = slow_forward  # type: ignore[method-assign]
    results: dict[str, list[int]] = {}

    def call(prompt: str) -> None:
        results[prompt] = engine.generate(prompt, max_tokens=4, temperature=0)["token_ids"]

    threads = [threading.Thread(target=call, args=(prompt,)) for prompt in ("one", "two")]
    threads[0].start()
    assert in_forward.wait(WAIT)
    threads[1].start()
    go_on.set()
    join(threads)
    assert results == {prompt: reference("llama", prompt, 4) for prompt in ("one", "two")}


# --- Mistakes and failures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_tokens": 0}, "max_tokens\n  Input should be greater than or equal to 1"),
        ({"temperature": 2.5}, "temperature\n  Input should be less than or equal to 2"),
        ({"temperature": float("nan")}, "temperature\n  Input should be a finite number"),
        ({"top_p": 0}, "top_p\n  Input should be greater than 0"),
        ({"top_k": -1}, "top_k\n  Input should be greater than or equal to 0"),
        ({"seed": 2**63}, "seed\n  Input should be less than or equal to"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop\n  List should have at most 4 items"),
        ({"stop": ""}, "stop.0\n  String should have at least 1 character"),
        ({"max_tokens": "5"}, "max_tokens\n  Input should be a valid integer"),
        ({"tempreature": 1}, "tempreature\n  Extra inputs are not permitted"),
    ],
)
@pytest.mark.parametrize("method", ["generate", "generate_stream"])
def test_a_wrong_setting_is_an_error_with_its_name(method: str, settings: dict[str, Any], reason: str) -> None:
    engine = tiny_engine()
    with pytest.raises(ValueError, match="1 validation error for SamplingParams") as refused:
        list(getattr(engine, method)("hello", **settings))
    assert reason in str(refused.value)
    assert engine.counters() == Counters(0, 0, 0)


@pytest.mark.parametrize("prompt", ["", "\ud800"])
def test_a_prompt_that_is_no_text_is_a_wrong_setting(prompt: str) -> None:
    with pytest.raises(ValueError, match="Expected a prompt"):
        tiny_engine().generate(prompt)


def test_a_prompt_that_is_too_long_says_both_lengths() -> None:
    message = (
        "The prompt has 5 tokens and max_tokens is 999, together 1004; the context holds 160. Shorten one of them."
    )
    with pytest.raises(PromptTooLong, match=message):
        tiny_engine().generate("hello", max_tokens=999)


def test_a_step_that_raises_reaches_every_caller() -> None:
    engine = tiny_engine(max_streams=3)
    forward = engine._runner.forward
    all_are_there = threading.Event()
    number = 8

    def forward_until_all_are_there(schedule: Schedule) -> Tensor:
        counters = engine.counters()
        if all_are_there.is_set() or counters.running + counters.waiting == number:
            all_are_there.set()
            raise RuntimeError("out of memory")
        return forward(schedule)

    engine._runner.forward = forward_until_all_are_there  # type: ignore[method-assign]
    errors: list[BaseException] = []

    def call() -> None:
        try:
            engine.generate("hello", max_tokens=100)
        except EngineFailed as error:
            errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(number)]
    for thread in threads:
        thread.start()
    assert all_are_there.wait(WAIT)
    join(threads)
    assert [str(error) for error in errors] == ["RuntimeError: out of memory"] * number


def test_a_thread_that_steps_is_told_of_a_failure_that_another_met() -> None:
    engine = tiny_engine()

    def broken_forward(schedule: Schedule) -> Tensor:
        raise RuntimeError("out of memory")

    engine._runner.forward = broken_forward  # type: ignore[method-assign]
    for _ in range(MAX_FAILED_STEPS):
        with pytest.raises(EngineFailed, match="out of memory"):
            engine.generate("hello")
    with pytest.raises(EngineFailed, match="out of memory"):
        engine.step()


def test_the_sinks_of_others_are_called_on_the_thread_that_steps() -> None:
    engine = tiny_engine()
    threads: set[int] = set()

    def sink(events: StepEvents) -> None:
        threads.add(threading.get_ident())

    engine.submit(engine.encode([text_request(prompt="hello", max_tokens=3)]), sink)
    engine.generate("hello", max_tokens=5)
    assert threads == {threading.get_ident()}
