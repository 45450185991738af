"""The driver's shutdown: open requests finish in time, or get an event that says so."""

import asyncio
import logging
import signal
import subprocess
import sys
from types import FrameType

import pytest

from config import Config
from interface.engine import Counters
from interface.errors import EngineUnavailable
from interface.events import Failed, Finished
from serving.status import EngineStatus
from study.common.engine import ScriptedEngine
from study.common.launcher import ROOT
from tests.support.asgi_client import PATIENCE, until
from tests.support.driving import all_events, driving, never, signalled, stuck, submit, terminal
from tests.support.slow_tokenizer import SlowTokenizer

pytestmark = pytest.mark.anyio


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


async def test_events_after_the_terminal_one_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The engine answers the abort of a request that was shut down with an end of its own."""
    caplog.set_level(logging.INFO, "engine.access")
    engine = ScriptedEngine()
    async with driving(engine) as driver:
        engine.hold()
        generation = await submit(driver)
        driver._abort(generation)
        generation.fail(Failed("why", "shutdown"))
        await until(lambda: engine.aborted == [engine.numbers[generation.sequence_ids[0]]])
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


async def test_a_request_that_is_tokenized_when_the_signal_comes_is_refused_while_streams_may_finish() -> None:
    engine = SlowTokenizer()
    async with driving(engine, Config(drain=PATIENCE)) as driver:
        late = asyncio.create_task(submit(driver))
        await until(engine.is_encoding.is_set)
        draining = asyncio.create_task(driver._shutdown.drain_when(signalled()))
        await until(lambda: driver.status == "shutting down")
        engine.may_encode.set()
        with pytest.raises(EngineUnavailable, match="shutting down"):
            await late
        await draining


async def test_at_a_signal_open_streams_may_finish_and_new_ones_are_refused() -> None:
    engine = ScriptedEngine()
    async with driving(engine, Config(drain=PATIENCE)) as driver:
        engine.hold()
        finishing = asyncio.create_task(all_events(await submit(driver)))
        draining = asyncio.create_task(driver._shutdown.drain_when(signalled()))
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
        listener, deaf = await submit(driver), await submit(driver)
        listening = asyncio.create_task(all_events(listener))
        sending = asyncio.create_task(deaf.run(stuck, never))
        await driver._shutdown.drain_when(signalled())
        assert terminal(await listening) == Failed("The server is shutting down", "shutdown")
        assert await sending is None
        await until(lambda: sorted(engine.aborted) == [1, 2])


def test_the_first_reason_to_take_no_requests_stays_whatever_happens_later() -> None:
    status = EngineStatus(Config(), "loading")
    status.refuse("shutting down")
    status.accept()
    assert status.text == "shutting down"
    status.fail("engine failed: too late")
    assert (status.text, status.has_failed) == ("shutting down", True)


def test_a_signal_ends_a_process_whose_server_does_not_handle_it() -> None:
    program = """
import asyncio, os, signal
from serving.process import signals_set
async def serve():
    with signals_set(asyncio.Event(), asyncio.Event()):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(1000)
asyncio.run(serve())
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=PATIENCE).returncode == -signal.SIGTERM


NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def test_a_program_that_goes_on_after_its_server_has_its_own_handlers_of_signals_again() -> None:
    def other(number: int, frame: FrameType | None) -> None:
        """A handler that another part of the program sets while the server runs."""

    before = [signal.getsignal(number) for number in NUMBERS]
    try:
        async with driving(ScriptedEngine()):
            assert signal.getsignal(signal.SIGTERM) != before[1]
        assert [signal.getsignal(number) for number in NUMBERS] == before
        async with driving(ScriptedEngine()):
            signal.signal(signal.SIGTERM, other)
        assert [signal.getsignal(number) for number in NUMBERS] == [before[0], other, before[2]]
    finally:
        for number, handler in zip(NUMBERS, before, strict=True):
            signal.signal(number, handler)
