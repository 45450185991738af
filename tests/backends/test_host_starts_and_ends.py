"""The engine's end of the socket before the engine has loaded, and when it is told to end."""

import asyncio
from pathlib import Path

import pytest

from backends import host as hosts
from backends import wire
from backends.stepped import SteppedService
from config import Config
from interface.engine import Tally
from interface.events import Finished
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import PATIENCE, until
from tests.support.sharing import HostedEngine, RawWorker, hosting

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "engine.sock"


async def test_a_worker_may_leave_before_the_engine_has_loaded_and_one_that_stays_is_welcomed(path: Path) -> None:
    host = HostedEngine(Config())
    server = await asyncio.get_running_loop().create_unix_server(host.connect, str(path))
    leaving, staying = RawWorker(), RawWorker()
    for worker in (leaving, staying):
        await asyncio.get_running_loop().create_unix_connection(lambda: worker.channel, str(path))  # noqa: B023
        worker.channel.send(wire.Hello(wire.PROTOCOL, wire.common_settings(Config()), Tally()))
    await until(lambda: host.workers == 2)
    leaving.channel.close()
    await until(lambda: host.workers == 1)
    await host.start(SteppedService(ScriptedEngine()))
    await until(lambda: staying.messages(wire.Welcome))
    server.close()
    await host.close("it ends")


async def test_open_sequences_get_time_to_end_when_the_engine_is_told_to(path: Path) -> None:
    engine = ScriptedEngine()
    async with hosting(path, engine) as host:
        worker = RawWorker()
        await worker.greet(path)
        engine.hold()
        worker.submit(1, "count 3")
        await until(lambda: engine.counters().running == 1)
        closing = asyncio.create_task(host.close("it is shutting down", drain=1000))
        await asyncio.sleep(0)
        worker.submit(2, "hello", first_id=9)
        await until(lambda: worker.answer(2))
        engine.release()
        await until(lambda: any(isinstance(event, Finished) for event in worker.events(1)))
        await until(closing.done, "the end, as nothing is open")
        await until(lambda: worker.lost)
    assert worker.answer(2).error == "EngineUnavailable"
    assert worker.messages(wire.Farewell) == [wire.Farewell("it is shutting down")]


async def test_a_worker_that_writes_before_it_reads_the_last_message_gets_it_all_the_same(path: Path) -> None:
    async with hosting(path) as host:
        worker = RawWorker()
        await worker.greet(path)
        assert worker.channel._transport is not None
        worker.channel._transport.pause_reading()
        closing = asyncio.create_task(host.close("it is shutting down"))
        for _ in range(10):  # by then a closed connection would be gone
            await asyncio.sleep(0)
        worker.channel.send(wire.Counted(Tally()))
        worker.channel._transport.resume_reading()
        await until(lambda: worker.lost)
        await closing
    assert worker.messages(wire.Farewell) == [wire.Farewell("it is shutting down")]


async def test_a_worker_that_is_stopped_does_not_keep_the_engine_from_ending(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "LEAVE_LIMIT", 0.01)
    async with hosting(path) as host:
        worker = RawWorker()
        await worker.greet(path)
        assert worker.channel._transport is not None
        worker.channel._transport.pause_reading()
        await asyncio.wait_for(host.close("it is shutting down"), PATIENCE)
        await until(lambda: host.workers == 0)


async def test_streams_that_go_on_while_their_workers_leave_are_no_error(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = ScriptedEngine()
    async with hosting(path, engine) as host:
        worker = RawWorker()
        await worker.greet(path)
        worker.submit(1, "drip 4000", max_tokens=4000)
        await until(lambda: worker.messages(wire.Events))
        assert worker.channel._transport is not None
        worker.channel._transport.pause_reading()
        closing = asyncio.create_task(host.close("it is shutting down"))
        await asyncio.sleep(0)
        made = engine.counters().generated_tokens
        await until(lambda: engine.counters().generated_tokens > made + 1)
        worker.channel._transport.resume_reading()
        await closing
        await until(lambda: host.workers == 0)
    assert worker.messages(wire.Farewell)
    assert caplog.records == []
