"""The client of the comparison: plain sockets on one event loop, each moment noted as it comes.

Times are seconds of `time.perf_counter`.
"""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Stream:
    """When each thing of an answer came."""

    asked_at: float
    headers_at: float = 0
    tokens_at: list[float] = field(default_factory=list)
    ended_at: float = 0


@dataclass(frozen=True)
class Health:
    status: str
    running: int
    generated_tokens: int


@dataclass
class Pulse:
    """One question to /health, and its answer."""

    asked_at: float
    answered_at: float
    health: Health


class Unexpected(RuntimeError):
    """A server answered what no experiment can use."""


@asynccontextmanager
async def asking(
    port: int, prompt: str, max_tokens: int, stream: bool = True, receive_buffer: int | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, Stream]]:
    """A request that has been sent; leaving the block leaves the server alone with it.

    `receive_buffer` is the size of the socket's, in bytes, for a client that wants to be slow.
    """
    content = {"prompt": prompt, "max_tokens": max_tokens, "stream": stream, "ignore_eos": True, "temperature": 0}
    body = json.dumps(content).encode()
    times = Stream(time.perf_counter())
    with socket.socket() as connecting:
        connecting.setblocking(False)
        if receive_buffer is not None:
            connecting.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(connecting, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=connecting.detach()))
    head = "POST /generate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    try:
        yield reader, times
    finally:
        writer.close()


async def read_head(reader: asyncio.StreamReader) -> None:
    """Raises Unexpected: the status is not 200."""
    line = await reader.readline()
    if line.split()[1:2] != [b"200"]:
        raise Unexpected(f"expected a status of 200, got {line + await reader.read(1000)!r}")
    while await reader.readline() not in (b"\r\n", b""):
        pass


async def read_tokens(reader: asyncio.StreamReader, times: Stream, count: int | None = None) -> None:
    """Read a stream to its `count`th token, or to its end."""
    if not times.headers_at:
        await read_head(reader)
        times.headers_at = time.perf_counter()
    while count is None or len(times.tokens_at) < count:
        line = await reader.readline()
        if not line or line.startswith(b"data: [DONE]"):
            times.ended_at = time.perf_counter()
            break
        if line.startswith(b"data: {") and b'"token"' in line:
            times.tokens_at.append(time.perf_counter())


async def stream(port: int, prompt: str, max_tokens: int) -> Stream:
    """A whole stream.

    Raises:
        Unexpected: it was refused, or it has not as many tokens as were asked for.
    """
    async with asking(port, prompt, max_tokens) as (reader, times):
        await read_tokens(reader, times)
    if len(times.tokens_at) != max_tokens:
        raise Unexpected(f"expected {max_tokens} tokens, got {len(times.tokens_at)}")
    return times


async def whole(port: int, prompt: str, max_tokens: int) -> Stream:
    """An answer that is not streamed: its tokens come all at once, at the end."""
    async with asking(port, prompt, max_tokens, stream=False) as (reader, times):
        await read_head(reader)
        times.headers_at = time.perf_counter()
        answer = json.loads(await reader.read())
        times.ended_at = time.perf_counter()
    times.tokens_at = [times.ended_at] * len(answer["token_ids"])
    return times


async def ask_health(port: int) -> Health:
    """Raises OSError: nobody listens, or the server closed the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    try:
        _, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    try:
        answer: dict[str, Any] = json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])
    except ValueError:
        raise ConnectionError(f"expected JSON from /health, got {body[:200]!r}") from None
    return Health(answer["status"], answer["running"], answer["generated_tokens"])


class Pulses:
    """Asks /health every `interval` seconds, whether or not the last question has been answered."""

    def __init__(self, port: int, interval: float) -> None:
        self.pulses: list[Pulse] = []
        self._port = port
        self._interval = interval
        self._questions: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Pulses":
        self._asking = asyncio.create_task(self._ask())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Ask no more, and wait for the answers that are still to come. Raises what a question raised."""
        self._asking.cancel()
        await asyncio.gather(*self._questions)
        self.pulses.sort(key=lambda pulse: pulse.asked_at)

    @property
    def longest_wait(self) -> float:
        return max(pulse.answered_at - pulse.asked_at for pulse in self.pulses)

    async def _ask(self) -> None:
        while True:
            question = asyncio.create_task(self._question())
            self._questions.add(question)
            await asyncio.sleep(self._interval)

    async def _question(self) -> None:
        asked_at = time.perf_counter()
        health = await ask_health(self._port)
        self.pulses.append(Pulse(asked_at, time.perf_counter(), health))
