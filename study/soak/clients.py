"""The clients of a soak: the ways to use and to misuse the server, each on a connection of its own."""

import asyncio
import json
import random
import re
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 120.0
"""Seconds after which an answer counts as one that never ends."""
END = re.compile(rb'"finish_reason": ?"|"error": ?\{|"type": ?"message_stop"')
"""A terminal event, of any of the APIs."""
USAGE = re.compile(rb'"(?:completion_tokens|output_tokens)": ?(\d+)')
TOKEN = re.compile(rb'"token_id": ?\d|"text": ?"|"text_delta"|"content": ?"')


@dataclass
class Tally:
    """The outcomes of the requests."""

    statuses: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    """Tokens that reached clients: as many as an answer reports, or as came before the client left."""
    without_retry_after: int = 0
    unended: list[str] = field(default_factory=list)
    """Accepted requests that did not end in exactly one terminal event, or one whole answer."""


class Client:
    """One connection, for one request."""

    def __init__(self, port: int, tally: Tally) -> None:
        self.port, self.tally = port, tally
        self.writer: asyncio.StreamWriter | None = None
        self.asked_at_once = True
        """Whether the whole request was sent before an answer could come."""

    async def open(self, path: str, content: Any, sent: int | None = None) -> asyncio.StreamWriter:
        """Connect and send a request, or the first `sent` bytes of its body."""
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.asked_at_once = sent is None
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        method = "GET" if content is None else "POST"
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body) if content is not None else 0}\r\n\r\n"
        self.writer.write(head.encode() + (b"" if content is None else body[:sent]))
        await self.writer.drain()
        return self.writer

    async def head(self) -> int:
        head = await self.reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        self.tally.statuses[str(status)] += 1
        if status in (429, 503) and b"retry-after" not in head.lower():
            self.tally.without_retry_after += 1
        return status

    async def finish(self, name: str, is_stream: bool) -> None:
        """Read the answer to its end."""
        status = None
        try:
            status = await self.head()
            body = await self.reader.read(-1)
        except (OSError, asyncio.IncompleteReadError) as error:
            self._cut_off(f"{name}: cut off, {error!r}", status)
            return
        self.tally.tokens += tokens_in(body)
        if status == 200 and is_stream and len(END.findall(body)) != 1:
            self.tally.unended.append(f"{name}: {len(END.findall(body))} ends in …{body[-200:]!r}")

    def _cut_off(self, what: str, status: int | None) -> None:
        """A server may refuse a request and close before all of it is there; writing on then resets the connection."""
        if self.asked_at_once or status == 200:
            self.tally.unended.append(what)
        elif status is None:
            self.tally.statuses["cut off"] += 1

    def reset(self) -> None:
        assert self.writer is not None
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def tokens_in(body: bytes) -> int:
    """The tokens that an answer reports, or else those that it shows."""
    reported = USAGE.findall(body)
    return int(reported[-1]) if reported else len(TOKEN.findall(body))


PROMPTS = ("What is ASGI?", "Tell me a story about a fox.", "What is 2 + 2?", "What is more_body?")


def text(**fields: Any) -> dict[str, Any]:
    return {"prompt": random.choice(PROMPTS), "max_tokens": random.randint(1, 40), **fields}


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": random.choice(PROMPTS)}], "max_tokens": 20, **fields}


WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}

Ask = tuple[str, Callable[[], Any], bool]
"""A path, what makes a body, and whether the answer is a stream."""

OWN: dict[str, Ask] = {
    "/generate, whole": ("/generate", text, False),
    "/generate, a stream": ("/generate", lambda: text(stream=True), True),
    "a page": ("/docs", lambda: None, False),
    "live": ("/live", lambda: None, False),
}
SHARED: dict[str, Ask] = {
    "completions": ("/v1/completions", lambda: text(**WITH_USAGE), True),
    "completions, whole": ("/v1/completions", text, False),
    "chat": ("/v1/chat/completions", lambda: chat(**WITH_USAGE), True),
    "messages": ("/v1/messages", lambda: chat(stream=True), True),
    "tokenize": ("/tokenize", lambda: {"prompt": "some words", "content": "some words"}, False),
    "models": ("/v1/models", lambda: None, False),
    "metrics": ("/metrics", lambda: None, False),
    "a wrong body": ("/v1/completions", lambda: b'{"prompt": 3', False),
    "many fields": ("/v1/completions", lambda: text() | {f"f{n}": 1 for n in range(20_000)}, False),
    "a megabyte": ("/v1/completions", lambda: {"prompt": "x y " * 250_000}, False),
}
"""Requests that other servers understand too."""


def ask(request: Ask) -> Callable[[Client, str], Awaitable[None]]:
    path, content, is_stream = request

    async def do(client: Client, name: str) -> None:
        await client.open(path, content())
        await client.finish(name, is_stream)

    return do


STREAMED = "/v1/completions"


async def reset_in_the_middle(client: Client, name: str) -> None:
    await client.open(STREAMED, text(stream=True, max_tokens=200))
    with suppress(asyncio.IncompleteReadError):
        await client.head()
        client.tally.tokens += tokens_in(await client.reader.read(random.randint(1, 500)))
    client.reset()


async def close_at_once(client: Client, name: str) -> None:
    await client.open(STREAMED, text(stream=True, max_tokens=200))


async def half_a_body(client: Client, name: str) -> None:
    await client.open(STREAMED, text(), sent=10)
    await asyncio.sleep(random.random())


async def write_slowly(client: Client, name: str) -> None:
    """On a busy machine this takes longer than the server waits for a body; then it answers before the end."""
    body = json.dumps(text(**WITH_USAGE)).encode()
    writer = await client.open(STREAMED, body, sent=1)
    async with asyncio.TaskGroup() as tasks:
        answer = tasks.create_task(client.finish(name, True))
        for byte in body[1:]:
            if answer.done():
                return
            writer.write(bytes([byte]))
            await asyncio.sleep(0.01)


async def read_slowly(client: Client, name: str) -> None:
    await client.open(STREAMED, text(**WITH_USAGE))
    await asyncio.sleep(1)
    await client.finish(name, True)


async def more_after_the_request(client: Client, name: str) -> None:
    writer = await client.open(STREAMED, text(stream=True, max_tokens=200))
    writer.write(b"\r\nGET /health HTTP/1.1\r\n")
    await asyncio.sleep(0.1)


Way = Callable[[Client, str], Awaitable[None]]

MISUSES: dict[str, Way] = {
    "reset": reset_in_the_middle,
    "close": close_at_once,
    "half a body": half_a_body,
    "a slow writer": write_slowly,
    "a slow reader": read_slowly,
    "more": more_after_the_request,
}
SHARED_WAYS: dict[str, Way] = {**{name: ask(request) for name, request in SHARED.items()}, **MISUSES}
ALL_WAYS: dict[str, Way] = {**{name: ask(request) for name, request in OWN.items()}, **SHARED_WAYS}


async def behave(port: int, tally: Tally, ways: dict[str, Way]) -> None:
    """Run one client of a random kind."""
    name = random.choice(list(ways))
    client = Client(port, tally)
    try:
        async with asyncio.timeout(PATIENCE):
            await ways[name](client, name)
    except TimeoutError:
        tally.unended.append(f"{name}: nothing for {PATIENCE:.0f} s")
    except (OSError, asyncio.IncompleteReadError):
        tally.statuses["cut off"] += 1
    finally:
        if client.writer is not None:
            client.writer.close()
