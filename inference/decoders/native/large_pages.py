"""Memory for packed weights, in pages as large as the system has.

A step reads all weights once, from front to back. In pages of 4 KiB, looking up where each page is costs as much as
reading a part of it, above all in a virtual machine, which looks up twice.
"""

import mmap
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

REGION = 64 * 2**20
"""Bytes that are asked for at once; the system gives them as they are touched."""
ALIGNMENT = 64


class LargePages:
    """Hands out pieces of large regions, which live as long as one of their pieces does."""

    def __init__(self) -> None:
        self._rest: NDArray[np.uint8] = np.empty(0, dtype=np.uint8)

    def take(self, size: int) -> NDArray[np.uint8]:
        """Zeroed memory that begins where a cache line does."""
        taken = -(-size // ALIGNMENT) * ALIGNMENT
        if taken > len(self._rest):
            self._rest = _region(max(taken, REGION))
        piece, self._rest = self._rest[:size], self._rest[taken:]
        return piece


def _region(size: int) -> NDArray[np.uint8]:
    if not hasattr(mmap, "MADV_HUGEPAGE"):  # not Linux
        return np.frombuffer(mmap.mmap(-1, size), dtype=np.uint8)
    # Private: memory that is shared, which is Python's default, has small pages whatever it asks for.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype=np.uint8)
