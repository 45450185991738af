"""What the lessons share: a server inside the lesson, and a client that is nothing but a socket.

Both talk over a real socket, so that an `anyio.Event` can say "not before the client has seen this" and no lesson
depends on how fast a machine is. The servers are those of study/common.
"""

import _start

import asyncio

import anyio

from serving.wsgi_server import ThreadingWSGIServer
from study.common.http_servers import serving, serving_wsgi

__all__ = ["PATIENCE", "Client", "ThreadingWSGIServer", "serving", "serving_wsgi"]

PATIENCE = 2.0
"""Seconds to wait for something before calling it "not coming"."""


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
