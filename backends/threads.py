"""Threads that neither a cancelled task nor the end of the process waits for.

`anyio.to_thread.run_sync` waits for its thread even when its task is cancelled, and so does the interpreter at its end.
That is right for a step, which is short; but tokenizing a megabyte takes a second and more, and a download minutes.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from queue import SimpleQueue
from typing import ClassVar, TypeVar

import anyio

from interface.errors import EngineUnavailable, NoThreadToStart

Result = TypeVar("Result")


class NoThread(EngineUnavailable):
    """The system gives this process no more threads. It may give one later."""


class DaemonThread:
    """A thread that is used again: starting a new one would block the loop until it runs."""

    idle: ClassVar["deque[DaemonThread]"] = deque()

    def __init__(self) -> None:
        self.queue: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=self._work, name="work", daemon=True).start()

    def _work(self) -> None:
        while True:
            self.queue.get()()


async def in_daemon_thread(function: Callable[[], Result], limiter: anyio.CapacityLimiter | None = None) -> Result:
    """Call a function on a daemon thread. Cancelling stops the waiting, not the thread.

    `limiter` counts all threads that run, including those that are no longer waited for.

    Raises:
        NoThread: the system gives no more threads.
    """
    loop, context = asyncio.get_running_loop(), copy_context()
    outcome: Future[Result] = Future()
    has_ended = asyncio.Event()

    def run() -> None:
        try:
            outcome.set_result(context.run(function))
        except Exception as error:
            outcome.set_exception(error)
        except BaseException as error:  # a panic in tokenizers: as it is, it would pass all that answers a request
            failure = RuntimeError(f"{type(error).__name__}: {error}")
            failure.__cause__ = error
            outcome.set_exception(failure)
        DaemonThread.idle.append(thread)  # before the loop gets the outcome, and may need a thread again
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(end)

    def end() -> None:
        if limiter is not None:
            limiter.release_on_behalf_of(outcome)
        has_ended.set()

    if limiter is not None:
        await limiter.acquire_on_behalf_of(outcome)
    try:
        thread = DaemonThread.idle.pop() if DaemonThread.idle else DaemonThread()
    except RuntimeError as error:
        end()
        raise NoThread(f"The system gives this process no more threads: {error}") from error
    thread.queue.put(run)
    await has_ended.wait()
    return outcome.result()


async def load_in_daemon_thread(load: Callable[[], Result]) -> Result:
    """Call what loads an engine on a daemon thread. See `in_daemon_thread`.

    Raises:
        LoadError: the system gives no thread; or what `load` raises.
    """
    try:
        return await in_daemon_thread(load)
    except NoThread as error:
        raise NoThreadToStart("load the model on", error.__cause__) from error
