"""A streaming client that measures: plain sockets on one event loop, with the time of each arrival.

    exchange = await whole(target.request("a prompt", 64))      # or `async with asking(…)`, to leave early
    stream = exchange.stream()                                  # when its tokens came, checked

It speaks to any server that streams server-sent events: ours at /generate, or an OpenAI-style one at
/v1/completions. While a load runs the client only keeps what arrives, and when; it parses afterwards, so that it takes
little time from the server it measures. Times are seconds of `time.perf_counter`.
"""

import asyncio
import json
import math
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self
from urllib.parse import urlsplit

READ = 1 << 16
DONE = b"[DONE]"
HEALTH_INTERVAL = 0.02
"""Seconds between two requests to /health."""


class LoadFailed(RuntimeError):
    """A stream was refused, or broke off, or ended with an error."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server to load: the URL that generates, and its model's name where a request must give it."""

    url: str
    model: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Sampling parameters; without any, answers are greedy."""

    @classmethod
    def on_port(cls, port: int) -> "Target":
        """One of our servers on this machine."""
        return cls(f"http://127.0.0.1:{port}/generate")

    @property
    def health(self) -> str:
        return self.at("/health")

    def at(self, path: str) -> str:
        """The URL of another path of the same server."""
        return urlsplit(self.url)._replace(path=path).geturl()

    def body(self, prompt: str, max_tokens: int, stream: bool = True) -> dict[str, Any]:
        body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": stream, **self.parameters}
        if urlsplit(self.url).path.endswith("/generate"):
            return body | {"ignore_eos": True}
        return body | {"model": self.model or "model"}


@dataclass(frozen=True)
class Stream:
    """When each part of an answer came."""

    asked_at: float
    headers_at: float
    tokens_at: list[float]
    ended_at: float
    tokens: int
    """As many as the server reports; where it reports none, as many as came."""
    closing: dict[str, Any] = field(default_factory=dict)
    """The last event."""

    @property
    def first_token_after(self) -> float:
        return self.tokens_at[0] - self.asked_at

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in zip(self.tokens_at, self.tokens_at[1:], strict=False)]

    def since(self, moment: float) -> "Stream":
        """Return the stream with its times counted from a moment."""
        return replace(
            self,
            asked_at=self.asked_at - moment,
            headers_at=self.headers_at - moment,
            tokens_at=[at - moment for at in self.tokens_at],
            ended_at=self.ended_at - moment,
        )


class Exchange:
    """A request that has been sent, and the part of its answer that has arrived."""

    def __init__(self, reader: asyncio.StreamReader, asked_at: float) -> None:
        self.asked_at = asked_at
        self.headers_at = 0.0
        self.ended_at = 0.0
        self.received: list[tuple[float, bytes]] = []
        self._reader = reader

    async def read_headers(self) -> None:
        """Raises LoadFailed: the status is not 200."""
        status = await _read_head(self._reader)
        if status != 200:
            raise LoadFailed(f"expected a status of 200, got {status}: {(await self._reader.read(2000))!r}")
        self.headers_at = time.perf_counter()

    async def read_tokens(self, count: int) -> None:
        """Read until `count` tokens have come, or the end."""
        while not self.ended_at and sum(_has_text(event) for _, event in self.events()) < count:
            await self._read()

    async def read_all(self) -> None:
        while not self.ended_at:
            await self._read()

    def events(self) -> list[tuple[float, dict[str, Any]]]:
        """The events that have come whole, each with its time; `[DONE]` is not one."""
        return [(at, json.loads(line)) for at, line in _data_lines(self.received) if line != DONE]

    def stream(self) -> Stream:
        """Raises LoadFailed: the stream did not end well."""
        events = self.events()
        if not events or "error" in events[-1][1]:
            raise LoadFailed(f"expected a stream that ends well, got {events[-1][1] if events else 'no event'}")
        tokens_at = [at for at, event in events if _has_text(event)]
        tokens = max((_reported_tokens(event) for _, event in events), default=0)
        return Stream(self.asked_at, self.headers_at, tokens_at, self.ended_at, tokens or len(tokens_at), events[-1][1])

    def answer(self) -> dict[str, Any]:
        """The JSON of an answer that is not streamed."""
        answer: dict[str, Any] = json.loads(b"".join(data for _, data in self.received))
        return answer

    async def _read(self) -> None:
        if not self.headers_at:
            await self.read_headers()
        data = await self._reader.read(READ)
        now = time.perf_counter()
        self.received.append((now, data))
        if not data or b"data: " + DONE in data:
            self.ended_at = now


@asynccontextmanager
async def asking(target: Target, body: dict[str, Any], receive_buffer: int | None = None) -> AsyncIterator[Exchange]:
    """Send a request. Leaving the block closes the connection, whatever is still to come.

    `receive_buffer` is the size of the socket's, in bytes, for a client that wants to be slow.
    """
    asked_at = time.perf_counter()
    reader, writer = await _request(target.url, "POST", body, receive_buffer)
    try:
        yield Exchange(reader, asked_at)
    finally:
        writer.close()


async def whole(target: Target, body: dict[str, Any]) -> Exchange:
    """Send a request and read its answer to the end, without parsing it.

    Raises:
        LoadFailed: the status is not 200.
    """
    async with asking(target, body) as exchange:
        await exchange.read_all()
    return exchange


async def stream(target: Target, prompt: str, max_tokens: int) -> Stream:
    """Send one prompt and read its stream to the end.

    Raises:
        LoadFailed: it was refused, or broke off.
    """
    return (await whole(target, target.body(prompt, max_tokens))).stream()


@dataclass(frozen=True, slots=True)
class Health:
    """An answer of /health."""

    status: str
    running: int
    generated_tokens: int


@dataclass(frozen=True)
class Pulse:
    """One request to /health, and its answer."""

    asked_at: float
    answered_at: float
    health: Health

    @property
    def waited(self) -> float:
        return self.answered_at - self.asked_at

    def since(self, moment: float) -> "Pulse":
        return replace(self, asked_at=self.asked_at - moment, answered_at=self.answered_at - moment)


class Pulses:
    """Asks for /health every `interval` seconds, by default whether or not the last request has been answered.

    With `overlap` off, each request waits for the answer to the one before, so a slow server is not made slower.
    """

    def __init__(self, target: Target, interval: float, overlap: bool = True) -> None:
        self.pulses: list[Pulse] = []
        self._target = target
        self._interval = interval
        self._overlap = overlap
        self._questions: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._asking = asyncio.create_task(self._ask())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Stop asking, and wait for the open answers. Raises what a request raised."""
        self._asking.cancel()
        await asyncio.gather(*self._questions)
        self.pulses.sort(key=lambda pulse: pulse.asked_at)

    @property
    def longest_wait(self) -> float:
        return max(pulse.waited for pulse in self.pulses)

    async def _ask(self) -> None:
        while True:
            question = asyncio.create_task(self._question())
            self._questions.add(question)
            await asyncio.sleep(self._interval)
            if not self._overlap:
                await asyncio.wait((question,))

    async def _question(self) -> None:
        asked_at = time.perf_counter()
        health = await ask_health(self._target)
        self.pulses.append(Pulse(asked_at, time.perf_counter(), health))


@dataclass(frozen=True, slots=True)
class Load:
    """The results of many streams at once."""

    streams: Sequence[Stream]
    seconds: float
    health: Sequence[float]
    """Seconds that each question to /health took."""

    def figures(self) -> dict[str, float]:
        """Tokens per second over all the streams, prefill included; the times in milliseconds."""
        gaps = [gap for stream in self.streams for gap in stream.gaps]
        first = [stream.first_token_after for stream in self.streams]
        return {
            "tokens_per_second": sum(stream.tokens for stream in self.streams) / self.seconds,
            "ttft_p50_ms": 1e3 * percentile(first, 50),
            "ttft_max_ms": 1e3 * max(first),
            "gap_p50_ms": 1e3 * percentile(gaps, 50),
            "gap_p99_ms": 1e3 * percentile(gaps, 99),
            "health_p50_ms": 1e3 * percentile(self.health, 50),
            "health_p99_ms": 1e3 * percentile(self.health, 99),
        }


async def load(
    target: Target, prompts: Sequence[str], max_tokens: int, health_interval: float = HEALTH_INTERVAL
) -> Load:
    """Send all the prompts at once and read every stream to its end, asking /health meanwhile.

    Raises:
        LoadFailed: a stream was refused, or broke off.
    """
    async with Pulses(target, health_interval, overlap=False) as pulses:
        began = time.perf_counter()
        exchanges = await asyncio.gather(*(whole(target, target.body(prompt, max_tokens)) for prompt in prompts))
        seconds = time.perf_counter() - began
    return Load([exchange.stream() for exchange in exchanges], seconds, [pulse.waited for pulse in pulses.pulses])


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that has `percent` of all values before it in their order; not a number if there is none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(percent / 100 * len(ordered)))] if ordered else float("nan")


def quotient(dividend: float, divisor: float) -> float:
    """Return the quotient, or infinity if the divisor is 0, as gaps are between tokens that arrive together."""
    return dividend / divisor if divisor else math.inf


async def ask(url: str) -> tuple[int, bytes]:
    """Send a GET; return the status and the body.

    Raises:
        OSError: there is no server, or it closed the connection.
    """
    reader, writer = await _request(url, "GET")
    try:
        return await _read_head(reader), await reader.read()
    finally:
        writer.close()


async def ask_health(target: Target) -> Health:
    """Raises OSError: there is no server, or it closed the connection."""
    _, body = await ask(target.health)
    try:  # a server that only speaks HTTP/1.1 may send it in chunks
        answer: dict[str, Any] = json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])
    except ValueError:
        raise ConnectionError(f"expected JSON from {target.health}, got {body[:200]!r}") from None
    return Health(answer.get("status", "loading"), answer.get("running", 0), answer.get("generated_tokens", 0))


def _data_lines(received: Sequence[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """What the `data:` lines hold, each with the time at which it was whole."""
    unfinished = b""
    for at, data in received:
        *lines, unfinished = (unfinished + data).split(b"\n")
        yield from ((at, line[len(b"data:") :].strip()) for line in lines if line.startswith(b"data:"))


def _has_text(event: dict[str, Any]) -> bool:
    """Whether an event holds a token: of ours, of a completion, or of a chat completion."""
    choices = event.get("choices", ())
    return "token" in event or any(choice.get("text") or choice.get("delta", {}).get("content") for choice in choices)


def _reported_tokens(event: dict[str, Any]) -> int:
    """The completion tokens that an event reports; 0 if it reports none."""
    counts: dict[str, int] = event if "completion_tokens" in event else event.get("usage") or {}
    return counts.get("completion_tokens", 0)


async def _request(
    url: str, method: str, content: dict[str, Any] | None = None, receive_buffer: int | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect and send, with `Connection: close`."""
    parts = urlsplit(url)
    with socket.socket() as connecting:
        connecting.setblocking(False)
        if receive_buffer is not None:
            connecting.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(connecting, (parts.hostname or "127.0.0.1", parts.port or 80))
        reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=connecting.detach()), limit=1 << 22)
    body = b"" if content is None else json.dumps(content).encode()
    head = f"{method} {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
    if content is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    writer.write(head.encode() + b"\r\n" + body)
    return reader, writer


async def _read_head(reader: asyncio.StreamReader) -> int:
    """The status; the header fields are read past.

    Raises:
        ConnectionError: the connection ended before an answer.
    """
    line = (await reader.readline()).split()
    if len(line) < 2:
        raise ConnectionError("the server closed the connection without an answer")
    while await reader.readline() not in (b"\r\n", b""):
        pass
    return int(line[1])
