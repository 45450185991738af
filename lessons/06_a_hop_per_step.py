"""Hop to the engine's thread once per step for all streams, not once per token for each of them.

A hop is a call that another thread runs while the caller waits: a queue, a lock, a wake-up and the way back. It takes
50 to 100 microseconds, much of it on the one event loop. With a hop per token, 16 streams of 50 tokens are 800 hops. An
engine makes the tokens of all its streams in one step, so 50 hops are enough. And a thread that stays while there is
work needs a single hop: once per step it calls the loop, which gives each stream its token.

The service has such a thread. The events of a step cross to the loop in one `call_soon_threadsafe`, and the next step
does not wait until they have been sent.

In the service: backends/stepped.py: SteppedService._work_until_idle; backends/stepped.py: SteppedService._hand_over;
serving/driver.py: Driver._deliver.
"""

import _start

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio import CapacityLimiter, to_thread

STREAMS, STEPS = 16, 50
received: list[list[str]] = []  # by each stream
hops = 0


def step() -> str:
    return "token"  # here the model would work; we look at what is around it


async def hop(function: Callable[[], Any], limiter: CapacityLimiter) -> Any:
    global hops
    hops += 1
    return await to_thread.run_sync(function, limiter=limiter)


async def a_hop_per_token() -> None:
    limiter = CapacityLimiter(STREAMS)

    async def serve(stream: list[str]) -> None:
        for _ in range(STEPS):
            stream.append(await hop(step, limiter))

    async with anyio.create_task_group() as tasks:
        for stream in received:
            tasks.start_soon(serve, stream)


def deliver(token: str) -> None:
    for stream in received:
        stream.append(token)


async def a_hop_per_step() -> None:
    limiter = CapacityLimiter(1)
    for _ in range(STEPS):
        deliver(await hop(step, limiter))


async def a_thread_that_stays() -> None:
    loop = asyncio.get_running_loop()

    def work() -> None:
        for _ in range(STEPS):
            loop.call_soon_threadsafe(deliver, step())

    await hop(work, CapacityLimiter(1))


async def show(name: str, way: Callable[[], Awaitable[None]]) -> float:
    global received, hops
    best = float("inf")
    for _ in range(5):  # the first time starts the threads, and another program may be in the way of some
        received, hops, began = [[] for _ in range(STREAMS)], 0, time.perf_counter()
        await way()
        best = min(best, time.perf_counter() - began)
    print(f"{name}: {sum(len(stream) for stream in received)} tokens, hops to a thread: {hops}")
    return best


async def main() -> None:
    per_token = await show("a hop per token", a_hop_per_token)
    per_step = await show("a hop per step", a_hop_per_step)
    staying = await show("a thread that stays", a_thread_that_stays)
    print(f"the thread that stays is faster than a hop per token: {staying < per_token}")
    print(f"    here: {per_token / staying:.0f} times, and a hop takes {1e6 * per_step / STEPS:.0f} µs")


anyio.run(main)
