"""How the engine's process shows the one that keeps it that it lives: a byte each second, through a pipe.

The event loop writes them. So they stop when the process is stopped, when its loop hangs, and when something in it
holds the interpreter's lock for good. They go on during a step, however long: `ENGINE_STEP_LIMIT` is for one that never
ends. The first byte comes once the model is loaded, so silence before it means nothing.
"""

import asyncio
import os
import select
from contextlib import suppress

INTERVAL = 1.0
"""Seconds between two bytes."""


async def beat(writer: int) -> None:
    """Write a byte each second, for as long as the loop turns."""
    os.set_blocking(writer, False)
    while True:
        with suppress(OSError):  # the reader is stopped and the pipe full, or it has ended, which stdin tells
            os.write(writer, b".")
        await asyncio.sleep(INTERVAL)


class Heartbeat:
    """The reader's end. `writer` is for the process that is to be heard; close it here once that has it."""

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        self._poll = select.poll()
        self._poll.register(self._reader, select.POLLIN)
        self._has_begun = False
        self.silence = 0.0
        """Seconds without a byte, since the first one. Each wait counts as the interval that it was meant to take: a
        machine that slept, or had no time for this process either, does not make the other one silent."""

    def listen(self) -> bool:
        """Wait for a byte, but not for longer than the interval; return False if no more can come."""
        if self._poll.poll(1000 * INTERVAL):
            self._has_begun, self.silence = True, 0.0
            return bool(os.read(self._reader, 4096))
        if self._has_begun:
            self.silence += INTERVAL
        return True

    def close(self) -> None:
        os.close(self._reader)
