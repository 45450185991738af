"""A thread that does not keep its process from ending."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


async def in_daemon_thread(function: Callable[[], Result]) -> Result:
    """Like `to_thread.run_sync`, but the process can end while it runs: Ctrl-C need not wait for a download."""
    outcome: Future[Result] = Future()
    outcome.set_running_or_notify_cancel()  # from here on a cancel stops only the waiting, not the thread

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="load", daemon=True).start()
    return await asyncio.wrap_future(outcome)
