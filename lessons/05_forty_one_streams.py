"""With a thread for each stream's next(), the 41st stream waits, and so does every other use of a thread.

`anyio.to_thread.run_sync` takes its threads from one limiter of 40 unless it is given another, and Starlette uses the
same one for plain `def` endpoints and for files. So while 40 streams wait for the model, a `/health` written with `def`
cannot answer, and the 41st stream waits although the model might have room for it.

A limiter of their own frees the others, but still takes a thread for each stream. An engine makes the tokens of all its
streams in one step, so one thread that steps is enough. The service has one, and a few that parse bodies and tokenize
prompts, each kind with its own limiter.

In the service: backends/stepped.py: SteppedService.start; backends/stepped.py: SteppedService.submit.
"""

import _start

import asyncio
import threading
from collections.abc import Iterator
from functools import partial

import anyio
from _show import PATIENCE
from anyio import CapacityLimiter, to_thread
from starlette.concurrency import run_in_threadpool

STREAMS = 41
END = object()
received = 0


def tokens(model: threading.Event) -> Iterator[str]:
    model.wait(timeout=30)  # the prefill
    yield "token"


async def a_thread_per_stream(model: threading.Event, limiter: CapacityLimiter | None) -> None:
    global received
    source = tokens(model)
    while await to_thread.run_sync(next, source, END, limiter=limiter) is not END:
        received += 1


async def waiting_for_the_model(limiter: CapacityLimiter) -> int:
    """How many streams have a thread, once each of them has one or waits for one."""
    while limiter.borrowed_tokens + limiter.statistics().tasks_waiting < STREAMS:  # noqa: ASYNC110
        await anyio.sleep(0.01)
    return int(limiter.borrowed_tokens)


async def health() -> str:
    """What Starlette does for an endpoint that is a plain `def`."""
    with anyio.move_on_after(PATIENCE):
        await run_in_threadpool(lambda: "ok")
        return "answered"
    return "no answer"


async def show(name: str, own_limiter: CapacityLimiter | None) -> None:
    global received
    received = 0
    model = threading.Event()
    async with anyio.create_task_group() as tasks:
        for _ in range(STREAMS):
            tasks.start_soon(a_thread_per_stream, model, own_limiter)
        served = await waiting_for_the_model(own_limiter or to_thread.current_default_thread_limiter())
        print(f"{name}: {served} of {STREAMS} streams have a thread; /health meanwhile: {await health()}")
        model.set()
    assert received == STREAMS


async def one_thread() -> None:
    loop, model = asyncio.get_running_loop(), threading.Event()
    streams = [asyncio.Queue[str]() for _ in range(STREAMS)]

    def deliver() -> None:
        for stream in streams:
            stream.put_nowait("token")

    def step() -> None:
        model.wait(timeout=30)
        loop.call_soon_threadsafe(deliver)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(to_thread.run_sync, step, limiter=CapacityLimiter(1)))
        print(f"one thread that steps for all: 1 thread; /health meanwhile: {await health()}")
        model.set()
        print(f"    streams that have got their first token: {len([await stream.get() for stream in streams])}")


async def main() -> None:
    await show("anyio's own 40 threads", None)
    await show("a limiter of their own", CapacityLimiter(100))
    await one_thread()


anyio.run(main)
