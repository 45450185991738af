"""Memory in pages as large as the system has, and some of it fetched before it is needed.

The system gives memory when it is touched, which takes as long as half a second or a whole one for 600 MB in a virtual
machine. While the libraries are imported, a processor has nothing else to do. Without torch, for that reason.
"""

import mmap
import os
import sys
import threading
from collections import deque
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

REGION = 64 * 2**20
"""Bytes that are asked for at once."""
LEAST_URGENT = 19
"""What `nice` calls a thread that runs when a processor has nothing else to do."""


def region(size: int) -> NDArray[np.uint8]:
    """Zeroed memory, which the system gives as it is touched."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):  # not Linux
        return np.frombuffer(mmap.mmap(-1, size), dtype=np.uint8)
    # Private: memory that is shared, which is Python's default, has small pages whatever it asks for.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype=np.uint8)


class MemoryAhead:
    """Regions that have been touched, on a thread of its own, and that nothing has taken yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._regions: deque[NDArray[np.uint8]] = deque()
        self._wanted = 0

    @property
    def bytes(self) -> int:
        """What they take."""
        return len(self._regions) * REGION

    def fetch(self, size: int) -> None:
        """Begin to fetch so many bytes."""
        with self._lock:
            self._wanted = -(-size // REGION)
        threading.Thread(target=self._run, name="memory", daemon=True).start()

    def take(self) -> NDArray[np.uint8]:
        """A region: one that has been fetched, if there is any."""
        with self._lock:
            self._wanted -= 1
            if self._regions:
                return self._regions.popleft()
        return region(REGION)

    def give_back(self) -> None:
        """Let the system have what nothing has taken, and fetch no more."""
        with self._lock:
            self._wanted = 0
            self._regions.clear()

    def _run(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LEAST_URGENT)
        self._fetch_all()

    def _fetch_all(self) -> None:
        with suppress(OSError):  # there is none: what needs it will say so
            while self._wants_more():
                fetched = region(REGION)
                fetched[:: mmap.PAGESIZE] = 0
                with self._lock:
                    if len(self._regions) < self._wanted:
                        self._regions.append(fetched)

    def _wants_more(self) -> bool:
        with self._lock:
            return len(self._regions) < self._wanted


AHEAD = MemoryAhead()
"""For the weights that are being loaded."""
