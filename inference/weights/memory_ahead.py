"""Allocates memory in large pages, some of it before it is needed.

The system provides memory when it is first touched, which takes a virtual machine 0.06 s for 600 MB that it has at
hand, and 1.4 s if its host has to find them. So the weights' memory is provided while the libraries are imported, when
a processor is idle; for that reason nothing here imports torch. That of the first texts is provided once all is loaded.
"""

import ctypes
import mmap
import sys
import threading
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from inference.priorities import LEAST_URGENT, lower_priority

REGION = 64 * 2**20
"""Bytes that are asked for at once, if no more are needed."""
STEP = 2 * 2**20
"""Bytes that are provided at once, before it is checked whether more are needed. What others ask the system for
meanwhile has to wait: with 16 MB, 12 GB of weights were packed 18 s later, since imports had waited."""
LARGE_PAGE = 2 * 2**20
"""Bytes that the system gives at once, where it has large pages."""
POPULATE_WRITE = 23
"""Linux's MADV_POPULATE_WRITE, since 5.14: provides memory without changing what is in it."""


def region(size: int) -> NDArray[np.uint8]:
    """Return zeroed memory, which the system provides as it is touched."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):  # not Linux
        return np.frombuffer(mmap.mmap(-1, size), dtype=np.uint8)
    # Private: memory that is shared, which is Python's default, has small pages whatever it asks for.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype=np.uint8)


def provide(memory: NDArray[np.uint8]) -> bool:
    """Have the system provide all of some memory, which others may be using; return whether it has.

    The memory begins with a page.
    """
    return _advise(memory.ctypes.data, memory.nbytes, POPULATE_WRITE)


def provide_in_background(memory: NDArray[np.uint8]) -> threading.Thread:
    """Have the system provide all of some memory, which begins with a page, on the thread that is returned.

    A large page at a time: what others ask the system for meanwhile has to wait for one. For the same reason the thread
    is as urgent as any other one.
    """

    def run() -> None:
        for start in range(0, len(memory), LARGE_PAGE):
            if not provide(memory[start : start + LARGE_PAGE]):
                return

    thread = threading.Thread(target=run, name="memory", daemon=True)
    thread.start()
    return thread


def release(memory: NDArray[np.uint8]) -> None:
    """Give back the large pages that lie in some memory as a whole; it can still be used, and is zero then."""
    first = -(-memory.ctypes.data // LARGE_PAGE) * LARGE_PAGE
    last = (memory.ctypes.data + memory.nbytes) // LARGE_PAGE * LARGE_PAGE
    if first < last:
        _advise(first, last - first, mmap.MADV_DONTNEED)


def _advise(address: int, size: int, advice: int) -> bool:
    """Call `madvise`, without the interpreter's lock."""
    if sys.platform != "linux":
        return False
    madvise = ctypes.CDLL(None).madvise
    return bool(madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), advice) == 0)


class MemoryAhead:
    """Memory that a thread has the system provide in advance, and goes on with while it is filled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._memory: NDArray[np.uint8] | None = None  # until it is taken
        self._fetching: NDArray[np.uint8] | None = None
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """How much has been fetched and not been taken."""
        with self._lock:
            return 0 if self._memory is None else self._bytes

    def fetch(self, size: int) -> None:
        """Begin to fetch `size` bytes."""
        try:
            memory = region(size + REGION)  # addresses for more, since it is not known exactly
        except OSError:  # there is none: what needs it will say so
            return
        with self._lock:
            self._memory = self._fetching = memory
            self._bytes = 0
        with suppress(RuntimeError):  # without a thread, the memory comes as it is filled
            threading.Thread(target=self._run, args=(memory, size), name="memory", daemon=True).start()

    def take(self) -> NDArray[np.uint8] | None:
        """Return the memory, some of which may be yet to come; None if there is none, or it was taken before."""
        with self._lock:
            memory, self._memory = self._memory, None
            return memory

    def give_back(self) -> None:
        """Fetch no more, and free the memory if it was not taken."""
        with self._lock:
            self._memory = self._fetching = None

    def _run(self, memory: NDArray[np.uint8], size: int) -> None:
        lower_priority(LEAST_URGENT)
        for start in range(0, size, STEP):
            part = memory[start : min(start + STEP, size)]
            if not self._is_fetching(memory) or not provide(part):
                return
            with self._lock:
                self._bytes += part.nbytes

    def _is_fetching(self, memory: NDArray[np.uint8]) -> bool:
        with self._lock:
            return self._fetching is memory


AHEAD = MemoryAhead()
"""The memory for the weights that are being loaded."""
