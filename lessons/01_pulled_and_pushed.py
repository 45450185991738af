"""WSGI can stream, but the server pulls: it waits in next().

It is often said that WSGI cannot stream. It can: a WSGI application returns an iterable, and PEP 3333 forbids the
server to hold a block back while the next one is made. In this lesson no token is made before the client has seen the
previous one, and under WSGI all five arrive.

But the server *pulls*: it waits in `next()` until there is a token, so a worker (a process or a thread) belongs to one
stream until its end. With one worker, `/health` gets no answer meanwhile; with a thread per stream it does, and every
open stream costs a thread. There is no `receive`, so the application does not learn that a client has left, and it
cannot wait for a token and for the client at once. The headers wait for the first block, because until then the
application may still change them.

An ASGI application *pushes*: it awaits `send` when it has something, and while it waits, the same thread serves the
other streams.

In the service: raw_asgi.py: stream_events; raw_wsgi.py: stream_events.
"""

import _start

import queue
from collections.abc import Iterable
from typing import Any
from wsgiref.simple_server import WSGIServer

import anyio
from _show import Client, ThreadingWSGIServer, serving, serving_wsgi
from starlette.types import Receive, Scope, Send

TOKENS = ["one", "two", "three", "four", "five"]
seen: queue.SimpleQueue[str] = queue.SimpleQueue()  # by the client; no token is made before it has seen the last


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"healthy"] if environ["PATH_INFO"] == "/health" else pulled()


def pulled() -> Iterable[bytes]:
    for token in TOKENS:
        seen.get(timeout=10)
        yield token.encode()


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    if scope["path"] == "/health":
        await send({"type": "http.response.body", "body": b"healthy", "more_body": False})
        return
    for token in TOKENS:
        while seen.empty():  # noqa: ASYNC110  the queue is the threads' too
            await anyio.sleep(0.01)
        seen.get()
        await send({"type": "http.response.body", "body": token.encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def watch(server: str, port: int) -> None:
    stream = await Client.ask(port)
    headers = "yes" if await stream.sees("text/plain") else "no"
    seen.put("headers")
    arrived = 0
    for token in TOKENS:
        arrived += await stream.sees(token)
        if token == "three":
            health = await Client.ask(port, "/health")
            answer = "answered" if await health.sees("healthy") else "not before the stream has ended"
        seen.put(token)
    await stream.body()
    assert (await health.body()).endswith("healthy")
    seen.get()  # the last token's
    print(f"{server}: {arrived} of {len(TOKENS)} tokens arrived before the next was made")
    print(f"    headers before the first token was made: {headers}; /health in the middle: {answer}")


async def main() -> None:
    for name, server_class in (("WSGI, one worker", WSGIServer), ("WSGI, a thread per stream", ThreadingWSGIServer)):
        with serving_wsgi(wsgi, server_class) as port:
            await watch(name, port)
    async with serving(asgi) as port:
        await watch("ASGI, one thread for all", port)


anyio.run(main)
