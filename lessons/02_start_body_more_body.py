"""An answer is a start message, then body messages, and only the last one says more_body False.

`more_body` is False by default, so a stream that forgets it ends with its first token. A body before the start is an
error, and so is anything after the end. If an application returns without a last message, its client has half an
answer: HTTP marks the end of a chunked body with a chunk of length 0, and that chunk never comes.

The start message goes out at once, so a client has the headers while its prompt is still being prefilled. Under WSGI
they wait for the first block (PEP 3333).

In the service: raw_asgi.py: start; raw_asgi.py: stream_events; raw_asgi.py: respond.
"""

import _start

import anyio
from _show import Client, serving
from starlette.types import ASGIApp, Receive, Scope, Send

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
errors: list[str] = []


async def body_before_start(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.body", "body": b"one"})


async def more_body_forgotten(scope: Scope, receive: Receive, send: Send) -> None:
    await send(START)
    for token in (b"one", b" two", b" three"):
        await send({"type": "http.response.body", "body": token})


async def end_forgotten(scope: Scope, receive: Receive, send: Send) -> None:
    await send(START)
    for token in (b"one", b" two", b" three"):
        await send({"type": "http.response.body", "body": token, "more_body": True})


headers_seen = anyio.Event()


async def right(scope: Scope, receive: Receive, send: Send) -> None:
    await send(START)
    await headers_seen.wait()  # no token is made before the client has the headers
    for token in (b"one", b" two", b" three"):
        await send({"type": "http.response.body", "body": token, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def show(name: str, app: ASGIApp) -> None:
    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
            raise

    errors.clear()
    async with serving(watched) as port:
        client = await Client.ask(port, headers="Connection: close\r\n", version="1.1")
        if app is right:
            print(f"the headers came before the first token was made: {await client.sees('text/plain')}")
            headers_seen.set()
        body = await client.body()
    status = client.received.split("\r\n")[0]
    tokens = " ".join(word for word in ("one", "two", "three") if word in body) or "no token"
    end = "with its end" if body.endswith("0\r\n\r\n") else "cut off"
    print(f"{name}: {status}; {tokens}; {end}")
    print(*[f"    {error}\n" for error in errors], sep="", end="")


async def main() -> None:
    await show("body before start", body_before_start)
    await show("more_body forgotten", more_body_forgotten)
    await show("end forgotten", end_forgotten)
    await show("start, body, body, body, end", right)


anyio.run(main)
