"""What the lessons share: a uvicorn beside the lesson, and a client that is nothing but a socket.

Both run on the lesson's own event loop and talk over a real socket, so that an `anyio.Event` can say "not before the
client has seen this" and no lesson depends on how fast a machine is.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import uvicorn
from starlette.types import ASGIApp

PATIENCE = 2.0
"""Seconds to wait for something before calling it "not coming"."""


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[int]:
    """Serve `app` with uvicorn on a free port of this machine, which is what the `with` gets."""
    config = uvicorn.Config(
        app, port=0, http="h11", loop="asyncio", lifespan="off", log_level="critical", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
            await anyio.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
        server.should_exit = True


class Client:
    """One request. HTTP/1.0 unless told otherwise: a body without chunks, ended by the connection's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.received = ""

    @classmethod
    async def ask(cls, port: int, path: str = "/", headers: str = "", version: str = "1.0") -> "Client":
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/{version}\r\nHost: localhost\r\n{headers}\r\n".encode())
        return cls(reader, writer)

    async def sees(self, text: str, patience: float = PATIENCE) -> bool:
        """Whether `text` comes, before the connection ends and before our patience does."""
        with anyio.move_on_after(patience):
            while text not in self.received and (data := await self._reader.read(65536)):
                self.received += data.decode("latin-1")
        return text in self.received

    async def body(self) -> str:
        """All of the answer's body, once the server has closed the connection."""
        self.received += (await self._reader.read()).decode("latin-1")
        self.leave()
        return self.received.partition("\r\n\r\n")[2]

    def leave(self) -> None:
        self._writer.close()
