"""A log for what is tried again and again, and may fail in the same way each time."""

import time
from collections.abc import Callable
from dataclasses import dataclass

FIRST_INTERVAL, LONGEST_INTERVAL = 60.0, 3600.0
"""Seconds until the same is said again; each interval is twice the one before."""
MOST_KEPT = 32


@dataclass
class _Said:
    due: float
    interval: float
    left_out: int = 0


class SparingLog:
    """Says each message once, and again at intervals that grow, with how often it was left out.

    Args:
        write: what writes a line, as a logger's `error` does.
        clock: tells the seconds.
    """

    def __init__(self, write: Callable[[str, str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._said: dict[str, _Said] = {}

    def say(self, message: str) -> None:
        now = self._clock()
        said = self._said.get(message)
        if said is None:
            self._forget_all_but(MOST_KEPT - 1)
            self._said[message] = _Said(now + FIRST_INTERVAL, FIRST_INTERVAL)
            self._write("%s", message)
        elif now < said.due:
            said.left_out += 1
        else:
            self._write("%s", f"{message} ({said.left_out + 1} times since this was said last)")
            interval = min(2 * said.interval, LONGEST_INTERVAL)
            self._said[message] = _Said(now + interval, interval)

    def forget(self) -> None:
        """It has worked: what fails from now on is news."""
        self._said.clear()

    def _forget_all_but(self, most: int) -> None:
        while len(self._said) > most:
            del self._said[next(iter(self._said))]
