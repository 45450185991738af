"""An application that only sends does not learn that its client has left; it must also await receive().

The reader closes the tab after three tokens. `send` does not say so: under servers of ASGI 2.3, uvicorn among them, it
returns after a disconnect as if nothing were wrong, and the model goes on for a reader who has left. Under ASGI 2.4
`send` may raise OSError, but only the next `send` does, and a stream in its prefill sends nothing. `http.disconnect`
always comes, to the task that awaits `receive`. The OSError must be expected all the same.

So one task awaits `receive` for as long as the stream lasts. It starts when the whole body has been read, since a
message has only one reader. Starlette's StreamingResponse does that below ASGI 2.4 and relies on OSError from there on.
This service always listens, also for an answer that is not streamed.

In the service: serving/generation.py: Generation.run; raw_asgi.py: stream_events.
Side by side: listen_for_disconnect.
"""

import _start

from contextlib import suppress

import anyio
from _show import Client, serving
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKENS = 20


class Model:
    """Makes tokens, and takes its time just where the client leaves."""

    def __init__(self, leaves_after: int, pause: float) -> None:
        self.leaves_after, self.pause = leaves_after, pause
        self.made = 0
        self.has_left = anyio.Event()

    async def next_token(self) -> bytes:
        if self.made == self.leaves_after:
            await self.has_left.wait()
            await anyio.sleep(self.pause)
        self.made += 1
        return f"<{self.made}>".encode()


async def only_sends(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(TOKENS):
        token = await scope["model"].next_token()
        await send({"type": "http.response.body", "body": token, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def also_listens(scope: Scope, receive: Receive, send: Send) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel_at_disconnect, receive, tasks.cancel_scope)
        await only_sends(scope, receive, send)
        tasks.cancel_scope.cancel()


async def cancel_at_disconnect(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def show(name: str, app: ASGIApp, leaves_after: int, spec_version: str = "2.3") -> None:
    model = Model(leaves_after, pause=30 if app is also_listens else 0.5)
    ended = anyio.Event()

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_of_2_4(message: Message) -> None:  # uvicorn's is of 2.3
            if model.has_left.is_set():
                raise OSError("the client has left")
            await send(message)

        with suppress(OSError):
            await app({**scope, "model": model}, receive, send_of_2_4 if spec_version == "2.4" else send)
        ended.set()

    async with serving(serve) as port:
        client = await Client.ask(port)
        await client.sees(f"<{leaves_after}>" if leaves_after else "200 OK")
        client.leave()
        model.has_left.set()
        await ended.wait()
    where = f"after {leaves_after} tokens" if leaves_after else "in the prefill"
    print(f"{name}, ASGI {spec_version}: the client left {where}, tokens made: {model.made}")


async def main() -> None:
    await show("only sends", only_sends, leaves_after=3)
    await show("only sends", only_sends, leaves_after=3, spec_version="2.4")
    await show("only sends", only_sends, leaves_after=0, spec_version="2.4")
    await show("also listens", also_listens, leaves_after=3)
    await show("also listens", also_listens, leaves_after=0)


anyio.run(main)
