"""How long something takes on an idle machine: the time in which threads waited for a processor does not count.

Linux counts that time for each thread (the second number of /proc/PID/task/TID/schedstat, in nanoseconds). What sleeps,
or waits for another program, counts in full, however busy the machine is. Elsewhere all time counts.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from study.common.launcher import Process

END_LIMIT = 100.0
"""Seconds after which a process that was told to end counts as one that never does."""


class IdleTime:
    """A stopwatch for what this process and the others with these ids do, which runs from the beginning."""

    def __init__(self, *pids: int) -> None:
        self._pids = (os.getpid(), *pids)
        self._before = self._waited()
        self._latest = dict(self._before)
        self._began = time.monotonic()

    def look(self) -> None:
        """Note how long each thread has waited. Call it now and then if a process may end meanwhile."""
        self._latest |= self._waited()

    @property
    def seconds(self) -> float:
        took = time.monotonic() - self._began
        self.look()
        waited = sum(seconds - self._before.get(thread, 0.0) for thread, seconds in self._latest.items())
        return max(0.0, took - waited)

    def _waited(self) -> dict[str, float]:
        """Seconds for which each thread has waited for a processor."""
        found = {}
        for pid in self._pids:
            for counts in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with suppress(OSError):  # it has ended meanwhile
                    found[counts.parent.name] = int(counts.read_text().split()[1]) / 1e9
        return found


def seconds_until_end(process: Process) -> float:
    """Wait for the end of a process that was told to end, and return how long that takes on an idle machine."""
    stopwatch = IdleTime(process.popen.pid)
    give_up_at = time.monotonic() + END_LIMIT
    while process.popen.poll() is None:
        assert time.monotonic() < give_up_at, f"it has not ended after {END_LIMIT:g} s\n{process.log}"
        stopwatch.look()
        time.sleep(0.01)
    return stopwatch.seconds
