"""The driver, without a door: who steps, when, and what becomes of every request however it ends."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

import contract
from config import Config
from interface.request import (
    Counters,
    EncodedRequest,
    EngineUnavailable,
    Event,
    Failed,
    Finished,
    GenerationRequest,
    PromptTooLong,
    QueueFull,
    RequestId,
    Sink,
    Token,
)
from serving.driver import Driver, Generation
from tests.support.asgi_client import PATIENCE, until
from tests.support.scripted_engine import CONTEXT, HELLO, ScriptedEngine

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def driving(engine: ScriptedEngine, config: Config | None = None) -> AsyncIterator[Driver]:
    driver = Driver(config or Config(), lambda config: engine)
    async with driver.running():
        await until(lambda: driver.status == "ok")
        try:
            yield driver
        finally:
            engine.release()


async def submit(driver: Driver, prompt: str = "hello", max_tokens: int = 128) -> Generation:
    return await driver.submit(GenerationRequest(prompt=prompt, max_tokens=max_tokens), "an-id")


async def never() -> None:
    """A client that stays."""
    await asyncio.Event().wait()


async def stuck() -> str:
    """A send that never ends."""
    await never()
    return "sent"


async def all_events(generation: Generation, gone: Callable[[], Awaitable[None]] = never) -> list[Event]:
    """Everything that one generation says, to its end."""
    events: list[Event] = []

    async def collect() -> None:
        events.extend([event async for event in generation.events() if event is not None])

    async with asyncio.timeout(PATIENCE):
        await generation.run(collect, gone)
    return events


def terminal(events: Sequence[Event]) -> Finished | Failed:
    """The one terminal event, which must be the last."""
    *tokens, end = events
    assert all(isinstance(token, Token) for token in tokens)
    assert isinstance(end, Finished | Failed)
    return end


# --- Stepping ---------------------------------------------------------------------------------------------------------


class Watched(ScriptedEngine):
    """Counts who is in `step`, and what the sinks are given."""

    def __init__(self) -> None:
        super().__init__(slots=64)
        self.calls = 0
        self.inside = 0
        self.most_inside = 0
        self.handed_over: list[list[RequestId]] = []
        self.wrapped: dict[Sink, Sink] = {}

    def submit(self, encoded: EncodedRequest, sink: Sink) -> RequestId:
        def watched(events: Sequence[tuple[RequestId, Event]]) -> object:
            self.handed_over.append([number for number, _ in events])
            return sink(events)

        return super().submit(encoded, self.wrapped.setdefault(sink, watched))

    def step(self) -> bool:
        self.calls += 1
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            return super().step()
        finally:
            self.inside -= 1


async def test_one_thread_at_a_time_steps_and_it_is_not_the_loops() -> None:
    engine = Watched()
    async with driving(engine) as driver:
        for _ in range(5):
            await asyncio.gather(*[all_events(await submit(driver, f"count {n}")) for n in range(1, 20)])
    assert engine.most_inside == 1
    assert threading.get_ident() not in engine.stepping_threads


async def test_the_events_of_a_step_are_handed_over_in_one_call() -> None:
    engine = Watched()
    async with driving(engine) as driver:
        engine.hold()
        generations = [await submit(driver, "count 3") for _ in range(20)]
        await until(lambda: engine.counters().running == 20)
        engine.release()
        answers = await asyncio.gather(*[all_events(generation) for generation in generations])
    assert len(engine.wrapped) == 1
    assert [len(set(numbers)) for numbers in engine.handed_over] == [20, 20, 20]
    for events in answers:
        assert [event.text for event in events if isinstance(event, Token)] == ["0 ", "1 ", "2 "]


async def test_after_a_long_step_its_tokens_are_passed_on_before_the_next_one_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.driver.HEAD_START", PATIENCE)
    engine, order = ScriptedEngine(), list[str]()
    step = engine.step

    def noted_step() -> bool:
        order.append("step")
        return step()

    monkeypatch.setattr(engine, "step", noted_step)
    async with driving(engine) as driver:
        generation = await submit(driver, "drip 20")  # its steps are longer than LONG_STEP

        async def take_one_by_one() -> None:
            async for event in generation.events():
                if isinstance(event, Token):
                    order.append("token")

        async with asyncio.timeout(PATIENCE):
            await generation.run(take_one_by_one, never)
    assert order[:40] == ["step", "token"] * 20


async def test_a_long_step_without_events_is_followed_by_the_next_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.driver.HEAD_START", 2 * PATIENCE)
    engine, prefilled = ScriptedEngine(), False
    step = engine.step

    def prefill_first() -> bool:
        nonlocal prefilled
        if not prefilled:
            time.sleep(0.005)
            prefilled = True
            return True
        return step()

    monkeypatch.setattr(engine, "step", prefill_first)
    async with driving(engine) as driver:
        assert isinstance(terminal(await all_events(await submit(driver))), Finished)


async def test_a_loop_that_is_busy_holds_no_step_up_for_long() -> None:
    engine = ScriptedEngine()
    async with driving(engine) as driver:
        generation = await submit(driver, "drip 500", max_tokens=500)
        task = asyncio.create_task(all_events(generation))
        await until(lambda: engine.counters().generated_tokens > 3)
        before = engine.counters().generated_tokens
        time.sleep(1)  # noqa: ASYNC251  (the loop is busy; a step takes 5 ms, and waits for at most 10)
        assert engine.counters().generated_tokens - before > 6
        generation.cut()
        await task


async def test_an_idle_engine_is_not_stepped() -> None:
    engine = Watched()
    async with driving(engine) as driver:
        assert engine.calls == 0
        await all_events(await submit(driver))
        await until(lambda: engine.inside == 0)
        calls = engine.calls
        await asyncio.sleep(0.05)
        assert engine.calls == calls
        await all_events(await submit(driver))
        assert engine.calls > calls


async def test_no_thread_is_busy_while_the_engine_is_idle() -> None:
    engine = ScriptedEngine()
    async with driving(engine) as driver:
        await all_events(await submit(driver))
        limiter = driver._step_limiter
        await until(lambda: limiter.borrowed_tokens == 0)
        assert limiter.total_tokens == 1


async def test_a_request_that_comes_at_the_end_of_another_is_not_forgotten() -> None:
    """The worker may be on its way home when the next request arrives."""
    engine = ScriptedEngine()
    async with driving(engine) as driver:
        for _ in range(300):
            assert isinstance(terminal(await all_events(await submit(driver, "count 1"))), Finished)


async def test_requests_share_the_steps() -> None:
    engine = Watched()
    async with driving(engine) as driver:
        engine.hold()
        generations = [await submit(driver, "count 100") for _ in range(16)]
        await until(lambda: engine.counters().running == 16)
        engine.release()
        await asyncio.gather(*[all_events(generation) for generation in generations])
    assert len(engine.handed_over) == 100


# --- How requests end -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prompt", "max_tokens", "reason"), [("hello", 128, "stop"), ("hello", 2, "length")])
async def test_a_request_that_finishes_has_one_terminal_event(prompt: str, max_tokens: int, reason: str) -> None:
    engine = ScriptedEngine()
    async with driving(engine) as driver:
        events = await all_events(await submit(driver, prompt, max_tokens))
        end = terminal(events)
        assert isinstance(end, Finished)
        assert end.finish_reason == reason
        assert len(events) - 1 == end.completion_tokens == min(max_tokens, len(HELLO))
        await all_events(await submit(driver))
    assert engine.aborted == []


async def test_the_text_of_the_events_is_the_text_of_the_tokens() -> None:
    async with driving(ScriptedEngine()) as driver:
        events = await all_events(await submit(driver, "emoji"))
    assert "".join(event.text for event in events if isinstance(event, Token)) == "😀 你好"


@pytest.mark.parametrize("released", [0, 2], ids=["in prefill", "in decode"])
async def test_a_client_that_leaves_ends_its_request_and_no_other(released: int) -> None:
    engine = ScriptedEngine()
    async with driving(engine) as driver:
        engine.hold()
        left = asyncio.Event()
        leaver = await submit(driver, "count 300", 300)
        neighbour = await submit(driver)
        leaving = asyncio.create_task(all_events(leaver, gone=lambda: _wait(left)))
        staying = asyncio.create_task(all_events(neighbour))
        await until(lambda: engine.counters().running == 2)
        engine.release(released)
        await until(lambda: engine.generated_tokens == 2 * released)
        left.set()
        seen = await leaving
        assert all(isinstance(event, Token) for event in seen)
        await until(lambda: engine.aborted == [leaver.number])
        engine.release()
        assert isinstance(terminal(await staying), Finished)
        assert engine.generated_tokens == released + len(HELLO)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def test_an_abort_is_repeated_without_harm() -> None:
    engine = ScriptedEngine()
    async with driving(engine) as driver:
        engine.hold()
        generation = await submit(driver, "count 300", 300)
        for _ in range(3):
            engine.abort(generation.number)
        engine.abort(10**9)
        end = terminal(await all_events(generation))
        assert isinstance(end, Finished)
        assert end.finish_reason == "abort"
        assert engine.aborted == [generation.number]


async def test_work_that_raises_ends_its_request() -> None:
    engine = ScriptedEngine()
    async with driving(engine) as driver:
        engine.hold()
        generation = await submit(driver)

        async def fail() -> None:
            raise ZeroDivisionError

        with pytest.raises(ExceptionGroup) as caught:
            await generation.run(fail, never)
        assert caught.group_contains(ZeroDivisionError)
        await until(lambda: engine.aborted == [generation.number])


async def test_run_returns_what_the_work_returned_or_none_if_it_was_cut_short() -> None:
    async with driving(ScriptedEngine()) as driver:
        generation = await submit(driver)
        result = await generation.run(generation.result, never)
        assert result is not None
        tokens, end = result
        assert [token.text for token in tokens] == HELLO
        assert isinstance(end, Finished)

        async def leave() -> None:
            return None

        generation = await submit(driver, "count 4000", 4000)
        assert await generation.run(stuck, leave) is None


async def test_submit_refuses_what_the_engine_refuses() -> None:
    engine = ScriptedEngine(slots=1, max_waiting=0)
    async with driving(engine) as driver:
        with pytest.raises(PromptTooLong):
            await submit(driver, max_tokens=CONTEXT)
        engine.hold()
        generation = await submit(driver)
        with pytest.raises(QueueFull):
            await submit(driver)
        engine.release()
        assert isinstance(terminal(await all_events(generation)), Finished)
        assert isinstance(terminal(await all_events(await submit(driver))), Finished)


class SlowTokenizer(ScriptedEngine):
    """Waits in `encode` until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.is_encoding = threading.Event()
        self.may_encode = threading.Event()

    def encode(self, request: GenerationRequest) -> EncodedRequest:
        self.is_encoding.set()
        assert self.may_encode.wait(PATIENCE)
        return super().encode(request)


async def test_a_submit_that_is_cancelled_leaves_nothing_running() -> None:
    engine = SlowTokenizer()
    async with driving(engine) as driver:
        submitting = asyncio.create_task(submit(driver))
        await until(engine.is_encoding.is_set)
        submitting.cancel()
        engine.may_encode.set()
        with pytest.raises(asyncio.CancelledError):
            await submitting
        assert isinstance(terminal(await all_events(await submit(driver))), Finished)
        await until(lambda: engine.counters() == Counters(0, 0, len(HELLO)))
    assert len(engine.prompts) == 1


# --- An engine that fails ---------------------------------------------------------------------------------------------


async def test_a_step_that_raises_gives_everyone_exactly_one_terminal_event() -> None:
    engine = ScriptedEngine(slots=4)
    async with driving(engine) as driver:
        engine.hold()
        running = [await submit(driver, prompt) for prompt in ("count 300", "explode", "count 300", "count 1")]
        waiting = [await submit(driver) for _ in range(3)]
        await until(lambda: engine.counters().waiting == 3)
        engine.release()
        *answers, finished = await asyncio.gather(*[all_events(one) for one in [*running[:3], *waiting, running[3]]])
        for events in answers:
            end = terminal(events)
            assert end == Failed("RuntimeError: the script says so", "engine_error")
        assert isinstance(terminal(finished), Finished)
        await until(lambda: driver.status != "ok")  # the events may come a moment before
        assert driver.status == "engine failed: RuntimeError: the script says so"
        with pytest.raises(EngineUnavailable, match="the script says so"):
            await submit(driver)


class Rude(ScriptedEngine):
    """Raises from a step what nobody expects, and tells nobody."""

    is_rude = False

    def step(self) -> bool:
        if self.is_rude:
            raise ZeroDivisionError("not in the script")
        return super().step()


async def test_whatever_a_step_raises_nobody_waits_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    engine = Rude()
    async with driving(engine) as driver:
        engine.hold()
        generations = [await submit(driver) for _ in range(3)]
        await until(lambda: engine.counters().running == 3)
        engine.is_rude = True
        engine.release()
        for events in await asyncio.gather(*[all_events(generation) for generation in generations]):
            end = terminal(events)
            assert isinstance(end, Failed)
            assert end.kind == "engine_error"
            assert "not in the script" in end.message
        assert "not in the script" in driver.status
        with pytest.raises(EngineUnavailable):
            await submit(driver)
    assert any(record.exc_info and "ZeroDivisionError" in str(record.exc_info[0]) for record in caplog.records)


class RudeSlowTokenizer(SlowTokenizer, Rude):
    pass


async def test_a_request_that_is_tokenized_while_the_engine_dies_is_refused() -> None:
    engine = RudeSlowTokenizer()
    async with driving(engine) as driver:
        engine.may_encode.set()
        engine.hold()
        victim = await submit(driver)
        engine.may_encode.clear()
        engine.is_encoding.clear()
        late = asyncio.create_task(submit(driver))
        await until(engine.is_encoding.is_set)
        engine.is_rude = True
        engine.release()
        assert isinstance(terminal(await all_events(victim)), Failed)
        engine.may_encode.set()
        with pytest.raises(EngineUnavailable, match="not in the script"):
            async with asyncio.timeout(PATIENCE):
                await late


# --- The end ----------------------------------------------------------------------------------------------------------


async def test_the_end_gives_every_open_request_a_terminal_event_of_type_shutdown() -> None:
    engine = ScriptedEngine(slots=1)
    async with driving(engine) as driver:
        engine.hold()
        tasks = [asyncio.create_task(all_events(await submit(driver))) for _ in range(3)]
        await until(lambda: engine.counters() == Counters(1, 2, 0))
    for events in await asyncio.gather(*tasks):
        assert terminal(events) == Failed("The server is shutting down", "shutdown")
    with pytest.raises(EngineUnavailable):
        await submit(driver)


async def test_what_comes_after_the_terminal_event_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The engine answers the abort of a request that was shut down with an end of its own."""
    caplog.set_level(logging.INFO, "engine.access")
    engine = ScriptedEngine()
    async with driving(engine) as driver:
        engine.hold()
        generation = await submit(driver)
        generation.fail(Failed("why", "shutdown"))
        await until(lambda: engine.aborted == [generation.number])
        late = await submit(driver)  # its first token comes after the other one's abort
        engine.release()
        await all_events(late)
        assert await all_events(generation) == [Failed("why", "shutdown")]
    assert [record.getMessage().rpartition("=")[2] for record in caplog.records] == ["stop", "shutdown"]


async def test_a_request_that_is_tokenized_while_the_server_ends_is_refused() -> None:
    engine = SlowTokenizer()
    async with driving(engine) as driver:
        late = asyncio.create_task(submit(driver))
        await until(engine.is_encoding.is_set)
    engine.may_encode.set()
    with pytest.raises(EngineUnavailable, match="shutting down"):
        async with asyncio.timeout(PATIENCE):
            await late


async def test_at_a_signal_open_streams_may_finish_and_new_ones_are_refused() -> None:
    engine = ScriptedEngine()
    async with driving(engine, Config(drain=PATIENCE)) as driver:
        engine.hold()
        finishing = asyncio.create_task(all_events(await submit(driver)))
        draining = asyncio.create_task(driver._drain())
        await until(lambda: driver.status == "shutting down")
        with pytest.raises(EngineUnavailable, match="shutting down"):
            await submit(driver)
        engine.release()
        assert isinstance(terminal(await finishing), Finished)
        async with asyncio.timeout(PATIENCE / 10):
            await draining


async def test_at_a_signal_streams_that_do_not_finish_are_told_and_those_that_do_not_listen_are_cut_off() -> None:
    engine = ScriptedEngine()
    async with driving(engine, Config(drain=0.01)) as driver:
        engine.hold()
        listening = asyncio.create_task(all_events(await submit(driver)))
        deaf = await submit(driver)
        sending = asyncio.create_task(deaf.run(stuck, never))
        await driver._drain()
        assert terminal(await listening) == Failed("The server is shutting down", "shutdown")
        assert await sending is None
        await until(lambda: sorted(engine.aborted) == [1, 2])


# --- Silence and stuck readers ----------------------------------------------------------------------------------------


async def test_a_silence_is_reported_each_time_it_has_lasted_a_heartbeat() -> None:
    engine = ScriptedEngine()
    async with driving(engine, Config(heartbeat=0.005)) as driver:
        engine.hold()
        generation = await submit(driver)
        seen: list[Any] = []

        async def collect() -> None:
            async for event in generation.events():
                seen.append(event)
                if seen.count(None) == 3:
                    engine.release()

        await generation.run(collect, never)
    assert seen[:3] == [None] * 3
    assert isinstance(seen[-1], Finished)


async def test_a_reader_that_is_stuck_is_cut_off_and_one_that_is_not_is_not() -> None:
    engine = ScriptedEngine()
    async with driving(engine, Config(stall=0.02, heartbeat=0.005)) as driver:
        engine.hold()
        patient = asyncio.create_task(all_events(await submit(driver)))
        generation = await submit(driver)

        async def stick() -> str:
            async for _ in generation.events():
                await never()
            return "sent"

        async with asyncio.timeout(PATIENCE):
            assert await generation.run(stick, never) is None
        await until(lambda: engine.aborted == [generation.number])
        engine.release()
        assert isinstance(terminal(await patient), Finished)


async def test_a_reader_that_has_waited_longer_than_a_stall_is_not_cut_off_at_the_next_event() -> None:
    """The moment between an event's coming and its being taken is not the reader's delay."""
    engine = ScriptedEngine()
    async with driving(engine, Config(stall=60, heartbeat=1000)) as driver:
        engine.hold()
        generation = await submit(driver)
        reading = asyncio.create_task(all_events(generation))
        await until(lambda: generation._is_waiting)
        generation._taken_at -= 61
        generation.put(Token("late", 0, 1.0, is_first=True))
        assert not generation._is_waiting
        watching = generation._stall()
        watching.send(None)  # it goes on watching: to end here would be to cut the reader off
        watching.close()
        engine.release()
        assert isinstance(terminal(await reading), Finished)


async def test_a_stream_with_much_to_say_lets_the_loop_do_something_else() -> None:
    """Its reader never waits, as a send usually does not."""
    engine = ScriptedEngine()
    async with driving(engine) as driver:
        generation = await submit(driver, "count 3000", 3000)
        await until(lambda: engine.counters().running == 0)
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count_turns())
        events = await all_events(generation)
        counting.cancel()
    assert len(events) == 3001
    assert turns > 20


def test_the_stream_of_a_generation_that_was_shut_down_ends_like_any_other() -> None:
    async def failed() -> AsyncIterator[Event | None]:
        yield Failed("why", "shutdown")

    async def frames() -> list[bytes]:
        return [frame async for frame in contract.sse_frames(failed())]

    error, done = asyncio.run(frames())
    assert b'"type":"shutdown"' in error.replace(b" ", b"")
    assert done == b"data: [DONE]\n\n"
