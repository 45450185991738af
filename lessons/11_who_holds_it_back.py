"""A middleware, a compressor or a proxy between the application and its client may hold the tokens back.

A middleware that collects the body before it passes anything on delays the whole stream; it must pass each message on
as it comes. A compressor keeps small pieces until they fill a block, unless it is told to flush each one. (Starlette's
GZipMiddleware leaves `text/event-stream` alone.) A proxy is outside the application, but headers of the answer can ask
it: nginx obeys `X-Accel-Buffering: no`, and `Cache-Control: no-transform` forbids compression (RFC 9111, 5.2.2.6).

In the service: contract/sse.py: SSE_HEADERS; raw_asgi.py: stream_events.
"""

import _start

import asyncio
import zlib
from collections.abc import Sequence
from functools import partial

import anyio
from _show import Client, serving
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Application:
    def __init__(self, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self.headers = [(b"content-type", b"text/event-stream"), *headers]
        self.model_goes_on = anyio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await self.model_goes_on.wait()
        await send({"type": "http.response.body", "body": b" two", "more_body": False})


def middleware(app: ASGIApp, collects: bool) -> ASGIApp:
    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        body = b""

        async def wrapped_send(message: Message) -> None:
            nonlocal body
            if message["type"] == "http.response.start" or not collects:
                return await send(message)
            body += message["body"]
            if not message["more_body"]:
                await send({"type": "http.response.body", "body": body, "more_body": False})

        await app(scope, receive, wrapped_send)

    return middleware


async def proxy(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass a request on, and hold its answer until it is whole, unless the answer asks not to."""
    from_app, to_app = await asyncio.open_connection("127.0.0.1", port)
    to_app.write(await reader.readuntil(b"\r\n\r\n"))
    head = held = await from_app.readuntil(b"\r\n\r\n")
    while piece := await from_app.read(65536):
        held += piece
        if b"x-accel-buffering: no" in head.lower():
            writer.write(held)
            held = b""
    writer.write(held)
    writer.close()
    to_app.close()


async def watch(name: str, port: int, app: Application) -> None:
    client = await Client.ask(port, headers="Accept-Encoding: gzip\r\n")
    arrives = "as it is made" if await client.sees("one") else "only with the last"
    app.model_goes_on.set()
    assert await client.body() == "one two"
    print(f"{name}: the first token arrives {arrives}")


def readable(flush: int) -> int:
    """How many of 100 tokens a client can decompress before the stream has ended."""
    compressor, decompressor = zlib.compressobj(), zlib.decompressobj()
    sent = [compressor.compress(b"token ") + compressor.flush(flush) for _ in range(100)]
    return decompressor.decompress(b"".join(sent)).count(b"token")


async def main() -> None:
    for name, wrap in (
        ("a middleware that collects", partial(middleware, collects=True)),
        ("one that passes each message on", partial(middleware, collects=False)),
        ("Starlette's GZipMiddleware", GZipMiddleware),
    ):
        app = Application()
        async with serving(wrap(app)) as port:
            await watch(name, port, app)
    print(f"a compressor: {readable(zlib.Z_NO_FLUSH)} of 100 tokens can be read before the end")
    print(f"one that flushes each: {readable(zlib.Z_SYNC_FLUSH)} of 100")
    for name, headers in (("a proxy that buffers", []), ("the same, asked not to", [(b"x-accel-buffering", b"no")])):
        app = Application(headers)
        async with serving(app) as port, await asyncio.start_server(partial(proxy, port), "127.0.0.1", 0) as between:
            await watch(name, between.sockets[0].getsockname()[1], app)


anyio.run(main)
