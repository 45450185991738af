"""A streaming client that measures: many streams at once, each on a connection of its own, over plain sockets.

It speaks to any server that streams server-sent events: ours at /generate, or an OpenAI-style one at
/v1/completions. A stream's tokens are those that its last events report; where none does, its events are counted.
While the load runs, only what comes and when is kept; it is parsed after, so that the client takes little from the
server it measures.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

READ = 1 << 16
DONE = b"[DONE]"
HEALTH_INTERVAL = 0.02
"""Seconds between two questions to /health."""


class LoadFailed(RuntimeError):
    """A stream was not answered, or not to its end."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server to load: the URL that generates, and the name of its model where a request must say it."""

    url: str
    model: str | None = None

    def body(self, prompt: str, max_tokens: int) -> dict[str, Any]:
        body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": True}
        if urlsplit(self.url).path.endswith("/generate"):
            return body | {"ignore_eos": True}
        return body | {"model": self.model or "model"}

    def beside(self, path: str) -> str:
        """The URL of another path of the same server."""
        return urlsplit(self.url)._replace(path=path).geturl()


@dataclass(frozen=True, slots=True)
class Stream:
    """What one stream did; times in seconds on one clock."""

    began: float
    arrivals: Sequence[float]  # of its tokens
    tokens: int
    closing: dict[str, Any]  # its last event

    @property
    def first_token_after(self) -> float:
        return self.arrivals[0] - self.began

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in zip(self.arrivals, self.arrivals[1:], strict=False)]


@dataclass(frozen=True, slots=True)
class Load:
    """What many streams did together."""

    streams: Sequence[Stream]
    seconds: float
    health: Sequence[float]  # seconds that each question to /health took

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


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of all do not exceed; not a number if there is none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(percent / 100 * len(ordered)))] if ordered else float("nan")


async def load(target: Target, prompts: Sequence[str], max_tokens: int) -> Load:
    """Send all the prompts at once and read every stream to its end, asking /health all the while.

    Raises:
        LoadFailed: a stream was refused, or broke off.
    """
    health: list[float] = []
    asking = asyncio.create_task(_ask_health(target.beside("/health"), health))
    began = time.perf_counter()
    streams = await asyncio.gather(*(stream(target, prompt, max_tokens) for prompt in prompts))
    seconds = time.perf_counter() - began
    asking.cancel()
    return Load(streams, seconds, health)


async def stream(target: Target, prompt: str, max_tokens: int) -> Stream:
    """Send one prompt and read its stream to its end.

    Raises:
        LoadFailed: it was refused, or broke off.
    """
    began = time.perf_counter()
    reader, writer = await _request(target.url, "POST", target.body(prompt, max_tokens))
    try:
        status = await _read_head(reader)
        if status != 200:
            raise LoadFailed(f"{target.url} answered {status}: {(await reader.read(2000)).decode(errors='replace')}")
        received: list[tuple[float, bytes]] = []
        while data := await reader.read(READ):
            received.append((time.perf_counter(), data))
            if b"data: " + DONE in data:
                break
    finally:
        writer.close()
    return _stream(began, [(at, json.loads(line)) for at, line in _events(received) if line != DONE])


def _events(received: Sequence[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """What stands in the `data:` lines, each with the time at which it was whole."""
    unfinished = b""
    for at, data in received:
        *lines, unfinished = (unfinished + data).split(b"\n")
        yield from ((at, line[len(b"data:") :].strip()) for line in lines if line.startswith(b"data:"))


def _stream(began: float, events: Sequence[tuple[float, dict[str, Any]]]) -> Stream:
    if not events or "error" in events[-1][1]:
        raise LoadFailed(f"expected a stream that ends well, got {events[-1][1] if events else 'no event'}")
    arrivals = [at for at, event in events if _has_text(event)]
    closing = events[-1][1]
    counts = [event if "completion_tokens" in event else event.get("usage") or {} for _, event in events]
    tokens = max((count.get("completion_tokens", 0) for count in counts), default=0)
    return Stream(began, arrivals, tokens or len(arrivals), closing)


def _has_text(event: dict[str, Any]) -> bool:
    return "token" in event or any(choice.get("text") for choice in event.get("choices", ()))


async def ask(url: str) -> tuple[int, bytes]:
    """GET: the status and the body."""
    reader, writer = await _request(url, "GET", None)
    try:
        return await _read_head(reader), await reader.read()
    finally:
        writer.close()


async def _ask_health(url: str, seconds: list[float]) -> None:
    while True:
        began = time.perf_counter()
        status, _ = await ask(url)
        if status != 200:
            raise LoadFailed(f"{url} answered {status}")
        seconds.append(time.perf_counter() - began)
        await asyncio.sleep(HEALTH_INTERVAL)


async def _request(
    url: str, method: str, content: dict[str, Any] | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    body = b"" if content is None else json.dumps(content).encode()
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 22)
    head = f"{method} {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
    if content is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    writer.write(head.encode() + b"\r\n" + body)
    return reader, writer


async def _read_head(reader: asyncio.StreamReader) -> int:
    status = int((await reader.readline()).split()[1])
    while await reader.readline() not in (b"\r\n", b""):
        pass
    return status
