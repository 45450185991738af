"""On a signal the server waits for open streams, and tells the application only after them.

On SIGTERM or Ctrl-C uvicorn takes no more connections and waits for the open ones to end. It waits for ever, or as long
as `--timeout-graceful-shutdown` says; then it cancels them, and their clients get no last event. `lifespan.shutdown`
comes last. So an application that ends its streams cannot wait for `lifespan.shutdown`: it must handle the signal
itself. It puts a handler in front of the server's, ends its streams, and passes the signal on.

In the service: serving/process.py: signals_set; serving/shutdown.py: Shutdown.drain_when; raw_asgi.py: lifespan.
"""

import _start

import asyncio
import os
import signal
from types import FrameType
from typing import Any

import anyio
from _show import Client, serving
from starlette.types import Receive, Scope, Send


class App:
    """An endless stream; `hears` says whether it listens to the signal itself."""

    def __init__(self, hears: bool) -> None:
        self.hears = hears
        self.ending = anyio.Event()
        self.happened: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self.lifespan(receive, send) if scope["type"] == "lifespan" else self.stream(send))

    async def lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        if self.hears:
            self.listen()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.happened.append("lifespan.shutdown")
        await send({"type": "lifespan.shutdown.complete"})

    def listen(self) -> None:
        loop, of_server = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)
        assert callable(of_server)

        def on_signal(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self.ending.set)
            of_server(number, frame)

        signal.signal(signal.SIGTERM, on_signal)

    async def stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        try:
            await self.ending.wait()
        except asyncio.CancelledError:
            self.happened.append("the stream is cut off")
            raise
        await send({"type": "http.response.body", "body": b" shutting down"})
        self.happened.append("the stream says so and ends")


async def show(name: str, app: App, limit: int | None = None) -> None:
    async with serving(app, lifespan="on", timeout_graceful_shutdown=limit) as port:
        client = await Client.ask(port)
        await client.sees("one")
        os.kill(os.getpid(), signal.SIGTERM)
        if not await client.sees("shutting down", patience=3) and not app.happened:
            app.happened.append("3 s later it waits still, and the lesson ends the stream")
            app.ending.set()
        await client.body()
    print(f"{name}: SIGTERM; {'; '.join(app.happened)}")


def ignore(*_: Any) -> None:
    """uvicorn raises the signal again when it has ended; the lesson goes on."""


async def main() -> None:
    signal.signal(signal.SIGTERM, ignore)
    await show("waits for lifespan.shutdown", App(hears=False))
    await show("the same, and the server has a limit", App(hears=False), limit=1)
    await show("hears the signal itself", App(hears=True))


anyio.run(main)
