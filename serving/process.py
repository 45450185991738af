"""This process: the signals that it gets, the status that it exits with, and its supervisor.

`shutdown` decides what happens to open streams then.

At a signal, uvicorn waits for open streams to end, and tells the application (lifespan.shutdown) only after that.
So the application handles the signals too, and passes each one on.

A process whose engine has failed for good ends itself with a status other than 0, so that a supervisor restarts it. A
server that is ended by a signal exits with that signal, which systemd counts as a success; so the process exits before
its server does (`end_now`).
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
FAILED = 70
"""The exit status of a process whose engine has failed for good: EX_SOFTWARE of sysexits.h."""
CANNOT_LOAD = 78
"""The exit status of a process whose engine cannot be loaded: EX_CONFIG. Another start would not help."""


def owns_the_process() -> bool:
    """Whether the server runs on the main thread, and not on a thread of another program."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def signals_set(first: asyncio.Event, second: asyncio.Event) -> Iterator[None]:
    """Within this, Ctrl-C and SIGTERM set an event on the running loop, and then reach the server's own handler.

    SIGHUP, which comes when a terminal is closed, counts as SIGTERM, unless `nohup` or the server has chosen otherwise.

    The second signal does not reach it: uvicorn, forced to end, would leave its tasks to the loop, which cancels them
    with a traceback for each. A third one is passed on again.

    Only the main thread may handle signals; on another one this does nothing.
    """
    if not owns_the_process():
        yield
        return
    handlers = _Handlers(first, second)
    handlers.install()
    try:
        yield
    finally:
        handlers.remove()


class _Handlers:
    """Handlers of signals, in front of the server's own: see `signals_set`. Made on the loop whose events they set."""

    def __init__(self, first: asyncio.Event, second: asyncio.Event) -> None:
        self._first = first
        self._second = second
        self._loop = asyncio.get_running_loop()
        self._has_supervisor = multiprocessing.parent_process() is not None
        self._heard = 0
        self._of_server: dict[int, Any] = {}

    def install(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # a worker is started with Ctrl-C blocked (`workers`)
        self._of_server = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
            self._of_server[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._on_hangup)

    def remove(self) -> None:
        for number, handler in self._of_server.items():
            if signal.getsignal(number) in (self._on_signal, self._on_hangup):
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._heard and self._has_supervisor and number == signal.SIGTERM:
            return  # Ctrl-C reaches workers too, and then their supervisor sends them SIGTERM as well
        self._heard += 1
        # Only an event is set here: starting a task from a loop callback depends on which async library is found.
        self._loop.call_soon_threadsafe((self._first if self._heard == 1 else self._second).set)
        if self._heard != 2:
            self._pass_on(number, frame)

    def _on_hangup(self, number: int, frame: FrameType | None) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """Do what the server would have done at a signal."""
        handler = self._of_server[number]
        if callable(handler):
            handler(number, frame)
        elif handler == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def end_with_parent() -> None:
    """End this process, as at a signal, when the supervisor that started it has died."""
    parent = multiprocessing.parent_process()
    if parent is None or not owns_the_process():
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="wait for the supervisor", daemon=True).start()


def begin_to_end(limit: float, exit_status: int) -> None:
    """Tell the server to end, and exit in any case after `limit` seconds (if the system gives a thread for that)."""

    def end_after_limit() -> None:
        time.sleep(limit)
        end_now(exit_status)

    with suppress(RuntimeError):  # a lack of threads may be the reason to end
        threading.Thread(target=end_after_limit, name="end", daemon=True).start()
    os.kill(os.getpid(), signal.SIGTERM)


def end_now(exit_status: int) -> None:
    """Exit with this status at once."""
    logging.shutdown()
    os._exit(exit_status)
