"""The clients of a soak: each way to use the server, and to misuse it, on a connection of its own."""

import asyncio
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 30.0
"""Seconds after which an answer that has not ended counts as one that never will."""
ENDS = (b'"finish_reason":"', b'"error":', b'"type":"message_stop"')


@dataclass
class Tally:
    """What became of the requests."""

    statuses: Counter[str] = field(default_factory=Counter)
    tokens_received: int = 0
    without_retry_after: int = 0
    unended: list[str] = field(default_factory=list)
    """Streams that were accepted and read to their end, without exactly one terminal event."""


class Client:
    """One connection, for one request."""

    def __init__(self, port: int, tally: Tally) -> None:
        self.port, self.tally = port, tally

    async def open(self, path: str, content: Any, sent: int | None = None) -> None:
        """Connect and send a request, or the first `sent` bytes of its body."""
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        method = "GET" if content is None else "POST"
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body) if content is not None else 0}\r\n\r\n"
        self.writer.write(head.encode() + (b"" if content is None else body[:sent]))
        await self.writer.drain()

    async def head(self) -> int:
        head = await self.reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        self.tally.statuses[str(status)] += 1
        if status in (429, 503) and b"retry-after" not in head.lower():
            self.tally.without_retry_after += 1
        return status

    async def finish(self, name: str, is_stream: bool) -> None:
        status = await self.head()
        body = await self.reader.read(-1)
        self.tally.tokens_received += body.count(b'"token_id":')
        if status == 200 and is_stream and sum(body.count(end) for end in ENDS) < 1:
            self.tally.unended.append(f"{name}: {body[-200:]!r}")

    def reset(self) -> None:
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


PROMPTS = ("What is ASGI?", "Tell me a story about a fox.", "What is 2 + 2?", "What is more_body?")


def generate(**fields: Any) -> dict[str, Any]:
    return {"prompt": random.choice(PROMPTS), "max_tokens": random.randint(1, 60), **fields}


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": random.choice(PROMPTS)}], "max_tokens": 20, **fields}


ASKED: dict[str, tuple[str, Callable[[], Any], bool]] = {
    "whole": ("/generate", generate, False),
    "stream": ("/generate", lambda: generate(stream=True), True),
    "completions": ("/v1/completions", lambda: generate(stream=True), True),
    "chat": ("/v1/chat/completions", lambda: chat(stream=True), True),
    "messages": ("/v1/messages", lambda: chat(stream=True), True),
    "tokenize": ("/tokenize", lambda: {"prompt": "some words"}, False),
    "models": ("/v1/models", lambda: None, False),
    "metrics": ("/metrics", lambda: None, False),
    "a page": ("/docs", lambda: None, False),
    "a wrong body": ("/generate", lambda: b'{"prompt": 3', False),
    "many fields": ("/generate", lambda: {f"f{n}": 1 for n in range(20_000)}, False),
    "a megabyte": ("/generate", lambda: {"prompt": "x y " * 250_000}, False),
}


async def ask(client: Client, name: str) -> None:
    path, content, is_stream = ASKED[name]
    await client.open(path, content())
    await client.finish(name, is_stream)


async def reset_in_the_middle(client: Client, name: str) -> None:
    await client.open("/generate", generate(stream=True, max_tokens=200))
    with suppress(asyncio.IncompleteReadError):
        await client.head()
        await client.reader.read(random.randint(1, 500))
    client.reset()


async def close_at_once(client: Client, name: str) -> None:
    await client.open("/generate", generate(stream=True, max_tokens=200))


async def half_a_body(client: Client, name: str) -> None:
    await client.open("/generate", generate(), sent=10)
    await asyncio.sleep(random.random())


async def write_slowly(client: Client, name: str) -> None:
    body = json.dumps(generate(stream=True)).encode()
    await client.open("/generate", body, sent=1)
    for byte in body[1:]:
        client.writer.write(bytes([byte]))
        await asyncio.sleep(0.01)
    await client.finish(name, True)


async def read_slowly(client: Client, name: str) -> None:
    await client.open("/generate", generate(stream=True))
    await asyncio.sleep(1)
    await client.finish(name, True)


async def more_after_the_request(client: Client, name: str) -> None:
    await client.open("/generate", generate(stream=True, max_tokens=200))
    client.writer.write(b"\r\nGET /health HTTP/1.1\r\n")
    await asyncio.sleep(0.1)


WAYS: dict[str, Callable[[Client, str], Awaitable[None]]] = {
    **dict.fromkeys(ASKED, ask),
    "reset": reset_in_the_middle,
    "close": close_at_once,
    "half a body": half_a_body,
    "a slow writer": write_slowly,
    "a slow reader": read_slowly,
    "more": more_after_the_request,
}


async def behave(port: int, tally: Tally) -> None:
    """Be one client of a kind that chance chooses."""
    name = random.choice(list(WAYS))
    client = Client(port, tally)
    try:
        async with asyncio.timeout(PATIENCE):
            await WAYS[name](client, name)
    except TimeoutError:
        tally.unended.append(f"{name}: nothing for {PATIENCE:.0f} s")
    except (OSError, asyncio.IncompleteReadError):
        tally.statuses["cut off"] += 1
    finally:
        if hasattr(client, "writer"):
            client.writer.close()
