"""Heartbeats while there are no events, and readers that are stuck."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import contract
from config import Config
from contract.generate import GenerateWriter
from interface.events import Event, Failed, Finished, Token
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import PATIENCE, until
from tests.support.driving import all_events, driving, never, submit, terminal

pytestmark = pytest.mark.anyio


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


async def test_while_a_reader_is_slow_there_is_no_silence() -> None:
    engine = ScriptedEngine()
    async with driving(engine, Config(heartbeat=0.005)) as driver:
        engine.hold()
        generation = await submit(driver)
        generation.put(generation.sequence_ids[0], Token("early", 0, 1.0, is_first=True))
        seen: list[Event | None] = []

        async def collect() -> None:
            async for event in generation.events():
                if not seen:
                    await asyncio.sleep(0.05)  # ten heartbeats
                    engine.release()
                    await until(lambda: generation.log.end is not None)
                seen.append(event)

        await generation.run(collect, never)
    assert isinstance(seen[-1], Finished)
    assert None not in seen


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
        await until(lambda: engine.aborted == [engine.numbers[generation.sequence_ids[0]]])
        engine.release()
        assert isinstance(terminal(await patient), Finished)


async def test_a_reader_that_has_waited_longer_than_a_stall_is_not_cut_off_at_the_next_event() -> None:
    """The time from an event's arrival until it is taken is not the reader's delay."""
    engine = ScriptedEngine()
    async with driving(engine, Config(stall=60, heartbeat=1000)) as driver:
        engine.hold()
        generation = await submit(driver)
        reading = asyncio.create_task(all_events(generation))
        await until(lambda: generation._is_waiting)
        generation._last_taken_at -= 61
        generation.put(generation.sequence_ids[0], Token("late", 0, 1.0, is_first=True))
        assert not generation._is_waiting
        watching = generation._stall()
        watching.send(None)  # it goes on watching: to end here would be to cut the reader off
        watching.close()
        engine.release()
        assert isinstance(terminal(await reading), Finished)


async def test_a_reader_that_is_stuck_is_looked_at_again_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine()
    async with driving(engine, Config(stall=60, heartbeat=1000)) as driver:
        engine.hold()
        generation = await submit(driver)
        reading = asyncio.create_task(all_events(generation))
        await until(lambda: generation._is_waiting)
        generation.put(generation.sequence_ids[0], Token("unread", 0, 1.0, is_first=True))
        generation._last_taken_at -= 45
        delays: list[float] = []

        async def end(seconds: float) -> None:
            delays.append(seconds)
            generation._last_taken_at -= seconds

        with monkeypatch.context() as patched:
            patched.setattr("serving.generation.anyio.sleep", end)
            watching = generation._stall()
            with pytest.raises(StopIteration):
                watching.send(None)
        engine.release()
        assert isinstance(terminal(await reading), Finished)
    (seconds,) = delays
    assert 0 < seconds <= 15


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
        return [frame async for frame in contract.frames(GenerateWriter(), failed(), 60)]

    error, done = asyncio.run(frames())
    assert b'"type":"shutdown"' in error.replace(b" ", b"")
    assert done == b"data: [DONE]\n\n"
