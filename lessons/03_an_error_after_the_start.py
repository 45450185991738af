"""After the start message it is too late for a 500: an error in a stream must be sent in the stream.

The status goes out with the headers, before the first token. If the application raises after that, the server can only
cut the connection: the client has a 200, half an answer and no reason. Swallowing the error is worse: a 200, half an
answer, and a proper end. So check before the start whatever can be checked, and answer with a 4xx. Send later errors as
events, and then end the stream properly.

In this service, each stream gets a `Failed` event when a step of the engine raises or the server ends. An unexpected
exception is raised again for the server's log; by then the client keeps what has been sent.

In the service: raw_asgi.py: handle; raw_asgi.py: http; interface/events.py: Failed; contract/generate.py:
GenerateWriter.
"""

import _start

from collections.abc import Iterator
from contextlib import suppress

import anyio
from _show import Client, serving
from starlette.types import ASGIApp, Receive, Scope, Send

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
END = {"type": "http.response.body", "body": b"", "more_body": False}


def tokens() -> Iterator[bytes]:
    yield b'data: {"token": "one"}\n\n'
    raise RuntimeError("the model failed")


async def send_tokens(send: Send) -> None:
    for event in tokens():
        await send({"type": "http.response.body", "body": event, "more_body": True})


async def raises(scope: Scope, receive: Receive, send: Send) -> None:
    await send(START)
    await send_tokens(send)
    await send(END)


async def raises_and_answers_500(scope: Scope, receive: Receive, send: Send) -> None:
    try:
        await raises(scope, receive, send)
    except RuntimeError:
        await send({"type": "http.response.start", "status": 500, "headers": []})


async def swallows(scope: Scope, receive: Receive, send: Send) -> None:
    await send(START)
    with suppress(RuntimeError):
        await send_tokens(send)
    await send(END)


async def says(scope: Scope, receive: Receive, send: Send) -> None:
    await send(START)
    try:
        await send_tokens(send)
    except RuntimeError as error:
        event = f'data: {{"error": "{error}"}}\n\n'
        await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
    await send(END)


async def show(name: str, app: ASGIApp) -> None:
    async with serving(app) as port:
        client = await Client.ask(port, headers="Connection: close\r\n", version="1.1")
        body = await client.body()
    status = client.received.split(" ")[1]
    events = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
    end = "with its end" if body.endswith("0\r\n\r\n") else "cut off"
    print(f"{name}: {status}; {' '.join(events)}; {end}")


async def main() -> None:
    await show("raises", raises)
    await show("tries to answer 500", raises_and_answers_500)
    await show("swallows the error", swallows)
    await show("says it in the stream", says)


anyio.run(main)
