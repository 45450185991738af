"""An engine host and its workers on one loop, over a real socket: as if each were a process of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from backends import wire
from backends.channel import Channel
from backends.host import EngineHost
from backends.stepped import SteppedService
from config import Config
from interface.engine import Tally
from interface.events import Event, Failed
from interface.requests import text_request
from serving.driver import Driver
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import until


class HostedEngine(EngineHost):
    """A host that can die."""

    server: asyncio.Server

    def die(self) -> None:
        """Close the connections, as the system does for a killed process."""
        self.server.close()
        for worker in list(self._workers.values()):
            worker.channel.cut("killed")

    def hear(self, message: wire.Message) -> None:
        """Take a message as if its first worker had sent it."""
        self._requests.take(next(iter(self._workers.values())), message, 0)

    @property
    def open_sequences(self) -> int:
        return len(self._requests.open)

    @property
    def submitting(self) -> int:
        """Sequences whose prompts are being tokenized."""
        return len(self._requests._submitting)

    @property
    def workers(self) -> int:
        return len(self._workers)

    @property
    def connections(self) -> int:
        """All connections so far."""
        return self._last_number


@asynccontextmanager
async def hosting(
    path: Path, engine: ScriptedEngine | None = None, config: Config | None = None
) -> AsyncIterator[HostedEngine]:
    engine = engine or ScriptedEngine()
    host = HostedEngine(config or Config())
    host.server = await asyncio.get_running_loop().create_unix_server(host.connect, path)
    await host.start(SteppedService(engine))
    try:
        yield host
    finally:
        engine.release()
        host.server.close()
        await host.close("it ends")
        await RawWorker.end_all()


@asynccontextmanager
async def working(path: Path, config: Config | None = None) -> AsyncIterator[Driver]:
    """A worker's driver that is connected to the engine."""
    driver = Driver(replace(config or Config(), socket=str(path)))
    async with driver.running():
        await until(lambda: driver.status == "ok", "the engine's welcome")
        yield driver


class RawWorker:
    """A worker that speaks by hand: it sees every message as it comes, and may send what it should not."""

    connected: ClassVar[list["RawWorker"]] = []

    def __init__(self) -> None:
        self.connected.append(self)
        self.heard: list[tuple[wire.Message, int]] = []
        self.lost: list[str] = []
        self.channel = Channel(
            lambda message, number: self.heard.append((message, number)),
            lambda malformed: pytest.fail(str(malformed)),
            self.lost.append,
        )

    async def greet(self, path: Path, config: Config | None = None, protocol: int = wire.PROTOCOL) -> None:
        await asyncio.get_running_loop().create_unix_connection(lambda: self.channel, str(path))
        settings = wire.common_settings(config or Config())
        self.channel.send(wire.Hello(protocol, settings, Tally()))
        await until(lambda: self.heard or self.lost, "the answer to a Hello")

    @classmethod
    async def end_all(cls) -> None:
        for worker in cls.connected:
            worker.channel.cut("the test ends")
        await asyncio.sleep(0)
        cls.connected.clear()

    def send_raw(self, data: bytes) -> None:
        assert self.channel._transport is not None
        self.channel._transport.write(data)

    def submit(self, number: int, *prompts: str, first_id: int = 1, **settings: Any) -> None:
        requests = [
            replace(text_request(prompt, **settings), sequence_id=first_id + place)
            for place, prompt in enumerate(prompts)
        ]
        self.channel.send(wire.Submit.of(requests), number)

    def messages(self, *kinds: type[Any]) -> list[Any]:
        """The messages of these kinds, in the order in which they came."""
        return [message for message, _ in self.heard if isinstance(message, kinds)]

    def events(self, sequence_id: int) -> list[Event]:
        return [
            event for message in self.messages(wire.Events) for number, event in message.events if number == sequence_id
        ]

    def failures(self, sequence_id: int) -> list[Failed]:
        return [event for event in self.events(sequence_id) if isinstance(event, Failed)]

    def answer(self, number: int) -> Any:
        """The answer to a request; None if none has come."""
        return next((message for message, found_number in self.heard if found_number == number), None)
