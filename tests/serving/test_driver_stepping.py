"""Which thread steps, when, and how the events get to the loop."""

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from backends import own
from backends.stepped import SteppedService
from config import Config
from inference.tensor_thread import on_tensor_thread
from interface.engine import Sink, StepEvents
from interface.events import Finished, Token
from interface.requests import EncodedRequest, SequenceId
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import PATIENCE, until
from tests.support.driving import all_events, driving, never, submit, terminal

pytestmark = pytest.mark.anyio


class Watched(ScriptedEngine):
    """Counts who is in `step`, and what the sinks are given."""

    def __init__(self) -> None:
        super().__init__(slots=64)
        self.calls = 0
        self.inside = 0
        self.most_inside = 0
        self.handed_over: list[list[SequenceId]] = []
        self.wrapped: dict[Sink, Sink] = {}

    def submit(self, requests: Sequence[EncodedRequest], sink: Sink) -> None:
        def watched(events: StepEvents) -> object:
            self.handed_over.append([number for number, _ in events])
            return sink(events)

        super().submit(requests, self.wrapped.setdefault(sink, watched))

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


async def test_our_own_engine_is_stepped_on_the_thread_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine()
    monkeypatch.setattr(own, "load_engine", lambda config: engine)
    async with driving(engine, service=lambda engine: own.load(Config())) as driver:
        await all_events(await submit(driver))
    assert engine.stepping_threads == {on_tensor_thread(threading.get_ident)}


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


def keep_the_loop_busy_until_the_end(engine: ScriptedEngine) -> None:
    deadline = time.monotonic() + PATIENCE
    while engine.counters().running and time.monotonic() < deadline:
        time.sleep(0.001)


async def test_a_loop_that_is_busy_is_called_once_for_all_the_steps_it_misses() -> None:
    calls = 0

    class Counted(SteppedService):
        def _call_loop(self) -> None:
            nonlocal calls
            calls += 1
            super()._call_loop()

    engine = ScriptedEngine()
    async with driving(engine, service=Counted) as driver:
        engine.hold()
        generation = await submit(driver, "count 50")
        await until(lambda: engine.counters().running == 1)
        engine.release()
        keep_the_loop_busy_until_the_end(engine)
        assert calls == 1
        events = await all_events(generation)
    assert [event.text for event in events if isinstance(event, Token)] == [f"{n} " for n in range(50)]


async def test_after_a_long_step_its_tokens_are_passed_on_before_the_next_one_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("backends.stepped.HEAD_START", PATIENCE)
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
    monkeypatch.setattr("backends.stepped.HEAD_START", 2 * PATIENCE)
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
        generation.cancel()
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
        assert isinstance(driver._engine, SteppedService)
        limiter = driver._engine._step_limiter
        await until(lambda: limiter.borrowed_tokens == 0)
        assert limiter.total_tokens == 1


async def test_a_request_that_comes_at_the_end_of_another_is_not_forgotten() -> None:
    """The worker thread may be about to return when the next request arrives."""
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
