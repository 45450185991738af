"""A generator's finally is no place to stop the engine: it may run too late, or never.

A `finally` runs only in a generator that has been entered. If a stream ends before its first token is asked for (the
client left while the headers were sent), the generator was never entered, and its `finally` never runs. If the stream
is cancelled while it waits in `send`, the generator is suspended at its `yield`, and nothing closes it: neither `async
for` nor Starlette's StreamingResponse does. Its `finally` runs when the garbage collector finds it.

So the code that runs the stream owns the abort, in a `finally` of its own, without an `await` before it.

In the service: serving/generation.py: Generation.run; serving/generation.py: Generation.close; raw_wsgi.py:
EventStream.
"""

import _start

import asyncio
import gc
from collections.abc import AsyncIterator

import anyio
from starlette.responses import StreamingResponse
from starlette.types import Message, Scope

SCOPE: Scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}}
aborted: list[str] = []


async def tokens(name: str) -> AsyncIterator[bytes]:
    try:
        yield b"one"
        yield b"two"
    finally:
        aborted.append(name)


class Client:
    """A client that leaves while the application sends a message of this type, which never gets through."""

    def __init__(self, leaves_at: str) -> None:
        self.leaves_at = leaves_at
        self.has_left = anyio.Event()

    async def receive(self) -> Message:
        await self.has_left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == self.leaves_at:
            self.has_left.set()
            await anyio.sleep_forever()


def said(is_aborted: bool) -> str:
    return "aborted" if is_aborted else "not aborted"


async def collect_garbage() -> None:
    gc.collect()
    await asyncio.sleep(0.1)  # the loop closes a collected generator in a task of its own


async def abort_in_the_generator(name: str, leaves_at: str) -> None:
    client = Client(leaves_at)
    response = StreamingResponse(tokens(name))
    await response(SCOPE, client.receive, client.send)
    after_the_response = name in aborted
    del response
    await collect_garbage()
    print(
        f"{name}: when the response has ended: {said(after_the_response)}; after the garbage: {said(name in aborted)}"
    )


async def abort_outside_it(name: str, leaves_at: str) -> None:
    client = Client(leaves_at)
    response = StreamingResponse(tokens("generator"))
    try:
        await response(SCOPE, client.receive, client.send)
    finally:
        aborted.append(name)
    print(f"{name}: when the response has ended: {said(name in aborted)}")


async def main() -> None:
    await abort_in_the_generator("finally in the generator, client leaves at a token", "http.response.body")
    await abort_in_the_generator("finally in the generator, client leaves at the headers", "http.response.start")
    await abort_outside_it("finally around it, client leaves at a token", "http.response.body")
    await abort_outside_it("finally around it, client leaves at the headers", "http.response.start")


anyio.run(main)
