"""The sign of life that the engine's process sends to its keeper: a byte each second, through a pipe.

The event loop writes the bytes. So they stop when the process is stopped, when its loop hangs, and when something holds
the interpreter's lock for good. They continue during a step, however long it is: `ENGINE_STEP_LIMIT` ends one that
hangs. The first byte comes once the model is loaded; silence before that has no meaning.
"""

import asyncio
import os
import select
from contextlib import suppress

INTERVAL = 1.0
"""Seconds between two bytes."""


async def send_signs_of_life(writer: int) -> None:
    """Write a byte each second, for as long as the loop runs."""
    os.set_blocking(writer, False)
    while True:
        with suppress(OSError):  # the reader is stopped and the pipe full, or it has ended, which stdin tells
            os.write(writer, b".")
        await asyncio.sleep(INTERVAL)


class SignsOfLife:
    """The reader's end. `writer` is for the other process; close it here once that process has started."""

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        self._poll = select.poll()
        self._poll.register(self._reader, select.POLLIN)
        self._has_begun = False
        self.silence = 0.0
        """Seconds without a byte, since the first one. Each wait counts as one interval, however long it took: if the
        machine slept, or had no time for this process, the other one need not be stuck."""

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
