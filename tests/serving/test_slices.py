"""What has come on a connection waits for its turn to be parsed; if the connection closes meanwhile, it is dropped."""

import asyncio
import logging
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from serving.asgi import Receive, Scope, Send
from serving.protocol import SLICE, SlicedH11, SlicedHttpTools
from tests.support.asgi_client import PATIENCE

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
TWO_SLICES = REQUEST * (2 * SLICE // len(REQUEST))


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [SlicedH11, SlicedHttpTools])
async def test_what_waits_when_a_server_that_ends_closes_its_connection_is_not_parsed(
    kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class ShutDownMeanwhile(kind):  # type: ignore[misc]
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if data != REQUEST:
                self.shutdown()

    asked = 0

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal asked
        asked += 1
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    config = uvicorn.Config(answer, log_config=None, lifespan="off")
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: ShutDownMeanwhile(config, ServerState(), {}), "127.0.0.1", 0)
    async with server, asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(REQUEST)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(TWO_SLICES)
        await reader.read()
        writer.close()
    assert asked == 1
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
