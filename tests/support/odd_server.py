"""A server that answers each path with given bytes in given pieces, to imitate any other server."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def whole(body: bytes | dict[str, Any], status: str = "200 OK", headers: Mapping[str, str] | None = None) -> bytes:
    """A complete HTTP answer with a Content-Length."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + data


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode(errors="backslashreplace") + b"\n\n"


class OddServer:
    """`answers` are the pieces for each path; another path gets a 404. `heads` are those of the requests.

    While `holds`, connections stay open after an answer, whatever it says.
    """

    def __init__(self, answers: dict[str, Sequence[bytes]]) -> None:
        self.answers = answers
        self.heads: list[bytes] = []
        self.holds = False

    @asynccontextmanager
    async def serving(self, **settings: Any) -> AsyncIterator[int]:
        """Serve on a free port; `settings` are those of `asyncio.start_server`."""
        connections: dict[asyncio.StreamWriter, asyncio.Task[Any] | None] = {}

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections[writer] = asyncio.current_task()
            with suppress(OSError, asyncio.IncompleteReadError):
                while await self._answer(reader, writer):
                    pass
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, **settings)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for writer in connections:
                writer.close()
            await asyncio.gather(*filter(None, connections.values()))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether another may follow on its connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
        await reader.readexactly(int(fields.get(b"content-length", b"0")))
        path = head.split(b" ")[1].decode()
        pieces = self.answers.get(path) or [whole(b"", "404 Not Found")]
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0.001)  # so that they arrive as pieces
        return b"content-length" in pieces[0] or self.holds
