"""A worker's end of the socket, with a driver and a door: what clients see, also when the engine dies."""

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends import host as host_module
from backends import socket_service, wire
from backends.load import load_service
from backends.socket_service import SocketService
from config import Config
from interface.engine import Counters
from interface.errors import EngineUnavailable, QueueFull
from interface.events import Failed, Finished
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import JSON, PATIENCE, Response, lifespan, until
from tests.support.driving import all_events, submit, terminal
from tests.support.serving import Door, assemble, by_hand
from tests.support.sharing import hosting, working
from tests.support.slow_tokenizer import SlowTokenizer

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("serving.driver.WELCOME_LIMIT", 5.0)
    return tmp_path / "engine.sock"


async def test_a_worker_waits_for_its_engine_and_says_meanwhile_that_it_loads(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.driver.WELCOME_LIMIT", 0.01)
    waiting = asyncio.create_task(worker_that_says_when_it_is_ready(path))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    async with hosting(path):
        assert await waiting == "loading"


async def worker_that_says_when_it_is_ready(path: Path) -> str:
    driver = assemble(lambda driver: driver, load=load_service, config=Config(socket=str(path))).driver
    async with driver.running():
        await until(lambda: driver.status == "loading")
        before = driver.status
        await until(lambda: driver.status == "ok")
        return before


async def test_a_worker_takes_no_connections_before_an_engine_that_is_there_has_welcomed_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.driver.WELCOME_LIMIT", PATIENCE)
    async with hosting(path):
        driver = assemble(lambda driver: driver, load=load_service, config=Config(socket=str(path))).driver
        async with driver.running():  # a server listens after this
            assert driver.status == "ok"


async def test_when_the_engine_dies_streams_are_told_and_requests_are_taken_again_from_the_next_one(path: Path) -> None:
    engine = ScriptedEngine()
    async with hosting(path, engine) as host, working(path) as driver:
        engine.hold()
        streams = [await submit(driver, "count 100") for _ in range(3)]
        await until(lambda: driver.counters().running == 3)
        host.die()
        for events in await asyncio.gather(*[all_events(stream) for stream in streams]):
            assert terminal(events) == Failed("engine lost: its process has ended", "engine_error")
        assert driver.status == "engine lost: its process has ended"
        assert not driver.vitals().has_failed
        assert driver.counters() == Counters(0, 0, 0)
        with pytest.raises(EngineUnavailable, match="its process has ended"):
            await submit(driver)
        async with hosting(path):
            await until(lambda: driver.status == "ok")
            assert isinstance(terminal(await all_events(await submit(driver))), Finished)


async def test_a_request_that_the_engine_has_not_answered_when_it_dies_is_refused(path: Path) -> None:
    engine = SlowTokenizer()
    async with hosting(path, engine) as host, working(path) as driver:
        asking = asyncio.create_task(submit(driver))
        await until(engine.is_encoding.is_set)
        host.die()
        with pytest.raises(EngineUnavailable, match="its process has ended"):
            await asking
        engine.may_encode.set()


async def test_an_answer_and_an_end_that_come_just_after_a_client_has_left_are_no_error(path: Path) -> None:
    """An error there would end the connection, and with it the streams of all others."""
    engine = SlowTokenizer()
    async with hosting(path, engine), working(path) as driver:
        asking = asyncio.create_task(submit(driver))
        await until(engine.is_encoding.is_set)
        service = driver._engine
        assert isinstance(service, SocketService)
        (number,) = service._asked
        asking.cancel()
        service._on_answer(number, wire.Accepted([1]))
        service._lose("its process has ended")
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert service._asked == {}, "nothing is left of it"
        engine.may_encode.set()


async def test_events_that_cannot_be_read_end_their_streams_and_not_the_worker(path: Path) -> None:
    engine = ScriptedEngine()
    async with hosting(path, engine) as host, working(path) as driver:
        engine.hold()
        stream = await submit(driver)
        (worker,) = host._workers.values()
        assert worker.channel._transport is not None
        worker.channel._transport.write(wire.HEADER.pack(2, wire._NUMBERS[wire.Events], 0) + b"{}")
        lost = Failed("engine lost: one of its messages cannot be read", "engine_error")
        assert terminal(await all_events(stream)) == lost
        engine.release()
        await until(lambda: driver.status == "ok")
        assert isinstance(terminal(await all_events(await submit(driver))), Finished)


async def test_the_engines_reason_for_ending_reaches_the_worker(path: Path) -> None:
    """The reason is the engine's last message, not that its connection is gone."""
    engine = ScriptedEngine()
    async with hosting(path, engine) as host, working(path) as driver:
        end = terminal(await all_events(await submit(driver, "explode")))
        assert isinstance(end, Failed)
        await until(host.has_failed.is_set)
        assert host.failure is not None
        await host.close(host.failure)
        await until(lambda: driver.status == "engine lost: RuntimeError: the script says so")


async def test_a_worker_that_the_next_engine_refuses_says_so_once_and_is_taken_by_the_one_after(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(socket_service, "LONGEST_PAUSE", 0.05)
    difference = "ENGINE_MAX_STREAMS is 16 for a worker, and 3 for the engine's process"
    async with hosting(path) as host, working(path) as driver:
        host.die()
        async with hosting(path, config=Config(max_streams=3)) as other:
            await until(lambda: other.connections >= 4, "some tries")
            assert f"engine lost: {difference}" in driver.status
            other.die()
        async with hosting(path):
            await until(lambda: driver.status == "ok")
    for line in ("A worker is refused: ", "The engine cannot be reached: ", f"Waiting for an engine at {path}: "):
        assert caplog.text.count(line + difference) == 1


async def test_an_engine_that_says_nothing_for_long_counts_as_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_service, "SILENCE", 0.3)
    monkeypatch.setattr(socket_service, "REPORT_INTERVAL", 0.1)
    async with hosting(path) as host, working(path) as driver:
        host._pulsing.cancel()
        await until(lambda: driver.status != "ok")
        assert "said nothing for 0.3 seconds" in driver.status
        with suppress(asyncio.CancelledError):
            await host._pulsing


async def test_an_engine_without_requests_for_long_is_not_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_service, "SILENCE", 0.3)
    monkeypatch.setattr(socket_service, "REPORT_INTERVAL", 0.1)
    monkeypatch.setattr(host_module, "PULSE_INTERVAL", 0.1)
    reports: list[None] = []
    report = SocketService._report
    monkeypatch.setattr(SocketService, "_report", lambda service: reports.append(report(service)))
    async with hosting(path) as host, working(path) as driver:
        await until(lambda: len(reports) > 10)
        assert (driver.status, host.connections) == ("ok", 1)


async def test_an_engine_that_was_stopped_together_with_its_workers_is_not_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As by Ctrl-Z, or by `docker pause`. Here both are on one loop, which stands still."""
    monkeypatch.setattr(socket_service, "SILENCE", 0.3)
    monkeypatch.setattr(socket_service, "REPORT_INTERVAL", 0.05)
    monkeypatch.setattr(host_module, "PULSE_INTERVAL", 0.05)
    monkeypatch.setattr(host_module, "BUSY_INTERVAL", 0.02)
    async with hosting(path), working(path) as driver:
        await asyncio.sleep(0.1)
        time.sleep(0.5)  # noqa: ASYNC251
        await asyncio.sleep(0.1)
        assert driver.status == "ok"
    assert "cannot be reached" not in caplog.text


async def test_a_client_that_leaves_ends_its_request_in_the_engine(path: Path) -> None:
    engine = ScriptedEngine()
    async with hosting(path, engine) as host, working(path) as driver:
        engine.hold()
        generation = await submit(driver, "count 100")
        await until(lambda: engine.counters().running == 1)
        driver.forget(generation)
        await until(lambda: engine.aborted == [1])
        assert host.open_sequences == 0


async def test_a_client_that_leaves_during_the_tokenizing_leaves_nothing(path: Path) -> None:
    engine = SlowTokenizer()
    async with hosting(path, engine) as host, working(path) as driver:
        asking = asyncio.create_task(submit(driver))
        await until(engine.is_encoding.is_set)
        asking.cancel()
        await asyncio.wait([asking])
        engine.may_encode.set()
        await until(lambda: host.open_sequences == 0)
    assert engine.prompts == []


async def test_all_workers_share_the_engines_room(path: Path) -> None:
    config = Config(max_streams=1, max_waiting=1)
    engine = ScriptedEngine(slots=1, max_waiting=1)
    async with (
        hosting(path, engine, config),
        working(path, config) as one,
        working(path, config) as other,
    ):
        engine.hold()
        await submit(one)
        await submit(other)
        with pytest.raises(QueueFull, match="the limit is 2"):
            await submit(other)


async def test_a_worker_with_other_settings_has_failed_to_load_and_its_start_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.driver.WELCOME_LIMIT", float("inf"))
    async with hosting(path, config=Config(max_streams=64)):
        driver = assemble(lambda driver: driver, load=load_service, config=Config(socket=str(path))).driver
        async with driver.running():
            await until(lambda: driver.vitals().has_failed)
            assert driver.status.startswith("failed to load: ENGINE_MAX_STREAMS is 16 for a worker, and 64")


CHAT = {"messages": [{"role": "user", "content": "think 4"}], "max_completion_tokens": 20}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "text": ("/generate", {"prompt": "hello"}),
    "stream": ("/generate", {"prompt": "emoji", "stream": True}),
    "line breaks": ("/generate", {"prompt": "newlines", "stream": True}),
    "log probabilities": ("/generate", {"prompt": "hello", "logprobs": 3}),
    "all parameters": ("/generate", {"prompt": "count 9", "max_tokens": 4, "logit_bias": {"5": 1.5}, "stop": "x"}),
    "too long": ("/generate", {"prompt": "hello", "max_tokens": 100_000}),
    "choices, echo": ("/v1/completions", {"prompt": ["hello", "count 3"], "n": 2, "echo": True, "logprobs": 2}),
    "token ids": ("/v1/completions", {"prompt": [1, 2, 3], "stream": True}),
    "conversation": ("/v1/chat/completions", CHAT),
    "tools": ("/v1/chat/completions", CHAT | {"tools": [TOOL], "tool_choice": "required", "stream": True}),
    "half a surrogate pair": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "\ud800"}]}),
    "messages": ("/v1/messages", {"messages": CHAT["messages"], "max_tokens": 20, "stream": True}),
    "responses": ("/v1/responses", {"input": "hello", "stream": True}),
    "tokenize": ("/tokenize", {"prompt": "a b c", "return_token_strs": True}),
    "detokenize": ("/detokenize", {"tokens": [1, 2, 3]}),
    "count": ("/v1/messages/count_tokens", {"messages": CHAT["messages"]}),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_door_says_the_same_as_with_the_engine_in_its_own_process(door: Door, name: str, path: Path) -> None:
    target, body = REQUESTS[name]
    data = json.dumps(body).encode()
    async with by_hand(door) as service:
        here = await service.client.request("POST", target, data, JSON)
    async with hosting(path):
        service = assemble(door, load=load_service, config=replace(Config(), socket=str(path)))
        async with lifespan(service.app):
            await until(lambda: service.driver.status == "ok")
            there = await service.client.request("POST", target, data, JSON)
    assert here.status < 500
    assert comparable(there) == comparable(here)


def comparable(answer: Response) -> tuple[int, str]:
    """An answer without what differs each time: ids, and times."""
    import re

    text = re.sub(rb'"(id|response_id|item_id|call_id)": ?"[^"]*"', b"", answer.body).decode()
    return answer.status, re.sub(r'"(created|created_at|completed_at|\w+_ms|tokens_per_second)": ?[\d.]+', "", text)
