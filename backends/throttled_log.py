"""A log for attempts that are repeated, and may fail in the same way each time."""

import time
from collections.abc import Callable
from dataclasses import dataclass

FIRST_INTERVAL, LONGEST_INTERVAL = 60.0, 3600.0
"""Seconds until a message is written again; each interval is twice the one before."""
MOST_KEPT = 32
"""Messages that are remembered."""


@dataclass
class _Message:
    due: float
    interval: float
    left_out: int = 0


class ThrottledLog:
    """Writes each message once, and again at growing intervals with the number of times that it was left out.

    Args:
        write: writes a line, as a logger's `error` does.
        clock: returns the time in seconds.
    """

    def __init__(self, write: Callable[[str, str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._written: dict[str, _Message] = {}

    def say(self, message: str) -> None:
        now = self._clock()
        written = self._written.get(message)
        if written is None:
            if len(self._written) == MOST_KEPT:
                del self._written[next(iter(self._written))]
            self._written[message] = _Message(now + FIRST_INTERVAL, FIRST_INTERVAL)
            self._write("%s", message)
        elif now < written.due:
            written.left_out += 1
        else:
            self._write("%s", f"{message} ({written.left_out + 1} times since this was said last)")
            interval = min(2 * written.interval, LONGEST_INTERVAL)
            self._written[message] = _Message(now + interval, interval)

    def forget(self) -> None:
        """Forget all messages, once an attempt has succeeded."""
        self._written.clear()
