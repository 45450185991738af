"""Where the engine lives decides what a step freezes, and what survives its death.

A step computes for milliseconds, and now and then an engine dies: a bug in native code, or the system needs memory. In
the loop, a step freezes every client. On a thread, the loop is free as long as the step releases the interpreter's
lock, as matrix products do; but a thread dies with its process: streams are cut off, and the server is gone. An engine
in a process of its own dies alone: the server reads the end of a pipe, tells its streams, and starts another engine.
The price is that each token crosses a process boundary, and that the model is loaded again.

A cluster does the same with whole servers on many machines; `deploy/ray_serve.py` runs the doors that way.

In the service: backends/stepped.py: SteppedService; backends/socket_service.py: SocketService._lose;
backends/host.py: EngineHost; serving/engine_keeper.py: EngineKeeper.
"""

import _start

import os
import signal
import subprocess
import sys
from contextlib import suppress

import anyio
from _show import Client, serving
from anyio import to_thread
from starlette.types import Receive, Scope, Send

DIED = "the engine has died"


def step() -> str:
    """Computes until the lesson sends a line; "die" is what a bug in native code does."""
    if sys.stdin.readline() == "die\n":
        os.kill(os.getpid(), signal.SIGKILL)
    return "token"


def start(role: str, stdin: int | None = None) -> "subprocess.Popen[str]":
    """Run this file again, in a process of its own."""
    return subprocess.Popen([sys.executable, __file__, role], text=True, stdin=stdin, stdout=subprocess.PIPE)


async def next_token(place: str, children: "list[subprocess.Popen[str]]") -> str:
    if place == "in the loop":
        return step()
    if place == "on a thread":
        return await to_thread.run_sync(step)
    if not children:
        children.append(start("engine"))
    assert children[0].stdout is not None
    token = await to_thread.run_sync(children[0].stdout.readline)
    if not token:
        children.clear()  # the next request gets another engine
    return token or DIED


async def serve(place: str) -> None:
    children: list[subprocess.Popen[str]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/health":
            return await send({"type": "http.response.body", "body": b"fine"})
        said = "begun"
        while said != DIED:
            await send({"type": "http.response.body", "body": said.encode(), "more_body": True})
            said = await next_token(place, children)
        await send({"type": "http.response.body", "body": said.encode()})

    async with serving(app) as port:
        print(port, flush=True)
        await anyio.sleep_forever()


async def show(place: str) -> None:
    with start(place, stdin=subprocess.PIPE) as server:
        assert server.stdin is not None and server.stdout is not None  # noqa: PT018
        port = int(server.stdout.readline())
        stream = await Client.ask(port)
        await stream.sees("begun")
        answered = await (await Client.ask(port, "/health")).sees("fine")
        print("go on\ndie", file=server.stdin, flush=True)
        told = survives = False
        with suppress(OSError):
            told = await stream.sees(DIED, patience=20)
            survives = await (await Client.ask(port, "/health")).sees("fine")
        print(f"{place}: during a step /health is {'answered' if answered else 'not answered'};", end=" at its death ")
        print(f"the stream {'is told' if told else 'is cut off'}, the server {'answers' if survives else 'is gone'}")
        server.kill()


async def main() -> None:
    for place in ("in the loop", "on a thread", "in a process"):
        await show(place)


role = sys.argv[1] if len(sys.argv) > 1 else "lesson"
while role == "engine":
    print(step(), flush=True)
anyio.run(*((main,) if role == "lesson" else (serve, role)))
