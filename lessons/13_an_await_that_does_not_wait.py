"""await send() may let nothing else run: a stream with much to send must give the others a turn.

An `await` yields to other tasks only if what it awaits has to wait. uvicorn's `send` writes to the socket and returns
as long as the buffers are not full. A loop of nothing but such sends keeps the event loop to itself: until it ends, no
other stream gets a token, `/health` gets no answer, and no disconnect is noticed. So after some events a stream calls
`anyio.lowlevel.checkpoint()`, which gives the others a turn.

In the service: serving/generation.py: Generation.events; serving/generation.py: BURST.
"""

import _start

import anyio
import anyio.lowlevel
from _show import Client, serving
from starlette.types import Receive, Scope, Send

EVENTS = 1000


class App:
    """A stream whose events are all there at once, and a /health."""

    def __init__(self, burst: int) -> None:
        self.burst = burst
        self.goes_on = anyio.Event()
        self.sent = 0
        self.sent_before_health = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/health":
            self.sent_before_health = self.sent
        else:
            await self.stream(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def stream(self, send: Send) -> None:
        await send({"type": "http.response.body", "body": b"<start>", "more_body": True})
        await self.goes_on.wait()
        for number in range(EVENTS):
            await send({"type": "http.response.body", "body": b"<event>", "more_body": True})
            self.sent += 1
            if number % self.burst == self.burst - 1:
                await anyio.lowlevel.checkpoint()


async def show(name: str, app: App) -> None:
    async with serving(app) as port:
        stream = await Client.ask(port)
        assert await stream.sees("<start>")
        health = await Client.ask(port, "/health")  # on its way when the stream goes on
        app.goes_on.set()
        await health.body()
        await stream.body()
    answered = "in the middle of the stream" if app.sent_before_health < EVENTS else f"after all {EVENTS} events"
    print(f"{name}: /health is answered {answered}")


async def main() -> None:
    await show("only sends", App(burst=EVENTS + 1))
    await show("steps aside after every 32 events", App(burst=32))


anyio.run(main)
