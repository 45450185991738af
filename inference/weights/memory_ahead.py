"""Allocates memory in large pages, some of it before it is needed.

The system provides memory when it is first touched, which takes half a second to a second for 600 MB in a virtual
machine. So it is touched while the libraries are imported, when a processor is idle. For that reason nothing here
imports torch.
"""

import mmap
import threading
from collections import deque
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from inference.priorities import LEAST_URGENT, lower_priority

REGION = 64 * 2**20
"""Bytes that are asked for at once."""


def region(size: int) -> NDArray[np.uint8]:
    """Return zeroed memory, which the system provides as it is touched."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):  # not Linux
        return np.frombuffer(mmap.mmap(-1, size), dtype=np.uint8)
    # Private: memory that is shared, which is Python's default, has small pages whatever it asks for.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype=np.uint8)


class MemoryAhead:
    """Regions that a thread has touched in advance, and that have not been taken yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._regions: deque[NDArray[np.uint8]] = deque()
        self._wanted = 0

    @property
    def bytes(self) -> int:
        """The size of the regions."""
        return len(self._regions) * REGION

    def fetch(self, size: int) -> None:
        """Begin to touch `size` bytes."""
        with self._lock:
            self._wanted = -(-size // REGION)
        threading.Thread(target=self._run, name="memory", daemon=True).start()

    def take(self) -> NDArray[np.uint8]:
        """Return a region, if possible one that has been touched."""
        with self._lock:
            self._wanted -= 1
            if self._regions:
                return self._regions.popleft()
        return region(REGION)

    def give_back(self) -> None:
        """Free the regions that were not taken, and touch no more."""
        with self._lock:
            self._wanted = 0
            self._regions.clear()

    def _run(self) -> None:
        lower_priority(LEAST_URGENT)
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
