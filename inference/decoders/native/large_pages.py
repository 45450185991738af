"""Memory for packed weights, in pages as large as the system has.

A step reads all weights once, from front to back. In pages of 4 KiB, looking up where each page is costs as much as
reading a part of it, above all in a virtual machine, which looks up twice.
"""

import numpy as np
from numpy.typing import NDArray

from inference.weights.memory_ahead import REGION, MemoryAhead, region, release

ALIGNMENT = 64


class LargePages:
    """Hands out pieces of large regions, which live as long as one of their pieces does.

    Args:
        ahead: has the first region, if there is one.
    """

    def __init__(self, ahead: MemoryAhead | None = None) -> None:
        self._ahead = ahead
        self._rest: NDArray[np.uint8] = np.empty(0, dtype=np.uint8)

    def take(self, size: int) -> NDArray[np.uint8]:
        """Zeroed memory that begins where a cache line does."""
        taken = -(-size // ALIGNMENT) * ALIGNMENT
        if taken > len(self._rest):
            self.release_rest()
            self._rest = self._region(taken)
        piece, self._rest = self._rest[:size], self._rest[taken:]
        return piece

    def release_rest(self) -> None:
        """Give back what was fetched ahead and is not needed."""
        release(self._rest)

    def _region(self, size: int) -> NDArray[np.uint8]:
        ahead = None if self._ahead is None else self._ahead.take()
        return ahead if ahead is not None and len(ahead) >= size else region(max(size, REGION))
