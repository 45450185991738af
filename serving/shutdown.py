"""The end of a server with open streams: hear of the signal, let the streams finish, tell the rest, cut off the stuck.

At a signal, uvicorn waits for open streams to end, and tells the application (lifespan.shutdown) only after that.
So the application listens for the signals too, and passes each one on.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals_set(event: asyncio.Event) -> Iterator[None]:
    """Within this, Ctrl-C and SIGTERM set `event`, on the running loop, and then reach the server's own handler.

    Only the main thread may handle signals; on another one this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def on_signal(number: int, frame: FrameType | None) -> None:
        # Only an event is set here: starting a task from a loop callback depends on which async library is found.
        loop.call_soon_threadsafe(event.set)
        handler = of_server[number]
        if callable(handler):
            handler(number, frame)
        elif handler == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    of_server: dict[int, Any] = {number: signal.signal(number, on_signal) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in of_server.items():
            if signal.getsignal(number) is on_signal:
                signal.signal(number, handler)
