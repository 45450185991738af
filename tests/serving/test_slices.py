"""Connections take turns: what has come waits for its turn to be parsed, and is dropped if the connection closes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from serving.asgi import Receive, Scope, Send
from serving.protocol import SLICE, Sliced, SlicedH11, SlicedHttpTools, Slices
from tests.support.asgi_client import PATIENCE, until

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
TWO_SLICES = REQUEST * (2 * SLICE // len(REQUEST))


pytestmark = pytest.mark.anyio
both_protocols = pytest.mark.parametrize("kind", [SlicedH11, SlicedHttpTools])


@asynccontextmanager
async def connected(
    kind: Callable[..., Any], app: Any
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, list[Any]]]:
    """A client of a server with this protocol; the list is going to hold the protocol of its connection."""
    config = uvicorn.Config(app, log_config=None, lifespan="off")
    protocols: list[Any] = []

    def connect() -> Any:
        protocols.append(kind(config, ServerState(), {}))
        return protocols[-1]

    server = await asyncio.get_running_loop().create_server(connect, "127.0.0.1", 0)
    async with server, asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        yield reader, writer, protocols
        writer.close()


async def respond(send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@both_protocols
async def test_what_waits_when_a_server_that_ends_closes_its_connection_is_not_parsed(
    kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class ShutDownMeanwhile(kind):  # type: ignore[misc]
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if data != REQUEST:
                self.shutdown()

    asked = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal asked
        asked += 1
        await respond(send)

    async with connected(ShutDownMeanwhile, app) as (reader, writer, _):
        writer.write(REQUEST)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(TWO_SLICES)
        await reader.read()
    assert asked == 1
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@both_protocols
async def test_no_more_is_read_while_requests_wait_for_the_answer_to_another(kind: Any) -> None:
    """A client that never stops asking would fill the memory."""
    may_answer = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await may_answer.wait()
        await respond(send)

    async with connected(kind, app) as (reader, writer, protocols):
        writer.write(TWO_SLICES)
        await until(lambda: bool(protocols) and protocols[0].flow.read_paused)
        for _ in range(50):
            await asyncio.sleep(0)
            assert not protocols[0].transport.is_reading()
        may_answer.set()
        for _ in range(TWO_SLICES.count(REQUEST)):
            await reader.readuntil(b"\r\n\r\n")
        assert protocols[0].transport.is_reading()


async def test_two_connections_that_send_much_are_parsed_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.protocol.SHARE", 0.0)
    parsed: list[object] = []

    class Sending:
        is_over = False

        def parse(self, data: bytes) -> None:
            parsed.append(self)

        def go_on_reading(self) -> None: ...

    slices, first, second = Slices(), Sending(), Sending()
    for protocol in (first, second):
        slices.put(cast(Sliced, protocol), b"x" * 2 * SLICE)
    await until(lambda: len(parsed) == 4)
    assert parsed == [first, second, first, second]
