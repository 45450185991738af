"""Keeps pieces of bytes in this process' memory, up to a limit."""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Mapping

from backends.shared_blocks import Blocks, SharedBlocks, cut

MOST_BYTES = 32 * 2**20
"""Of all pieces together, with their names. What several have in common counts once (`shared_blocks`)."""


class KeptInMemory:
    """See `interface.kept.Kept`. Nothing here waits for more than the lock."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._together: OrderedDict[str, Mapping[str, Blocks]] = OrderedDict()
        """What is kept together, by the first of its names; used least recently first."""
        self._first_names: dict[str, str] = {}
        """For each name, the first of those that it is kept with."""
        self._places: dict[str, int] = {}
        """For each name, how many were put before it. One that is put again keeps its place; no clock is asked."""
        self._next_places = itertools.count()
        self._blocks = SharedBlocks()
        self._bytes_of_names = 0
        self._lock = threading.Lock()

    def put(self, pieces: Mapping[str, bytes], beside: str | None = None) -> None:
        """Pieces that are too large together take no other's place: they are not kept."""
        together = {name: cut(piece) for name, piece in pieces.items()}
        with self._lock:
            if beside is not None:
                if (first := self._first_names.get(beside)) is None:
                    return
                together = {**self._together[first], **together}
            if not together or _size(together) > self._most_bytes:
                return
            # First, so that blocks which those that are forgotten have in common with these stay.
            together = {name: self._blocks.keep(blocks) for name, blocks in together.items()}
            first = next(iter(together))
            places = {name: self._place(name) for name in together}
            for name in together:
                self._forget(name)
            self._together[first] = together
            self._first_names |= dict.fromkeys(together, first)
            self._places |= places
            self._bytes_of_names += sum(map(len, together))
            while self._bytes > self._most_bytes:
                self._forget(next(iter(self._together)))

    def get(self, name: str) -> bytes | None:
        with self._lock:
            if (first := self._first_names.get(name)) is None:
                return None
            self._together.move_to_end(first)
            return b"".join(self._together[first][name])

    def find(self, beginning: str) -> Mapping[str, bytes]:
        with self._lock:
            names = [name for name in self._first_names if name.startswith(beginning)]
            names.sort(key=self._places.__getitem__)
            return {name: b"".join(self._together[self._first_names[name]][name]) for name in names}

    def drop(self, name: str) -> bool:
        with self._lock:
            return self._forget(name)

    @property
    def _bytes(self) -> int:
        return self._blocks.bytes + self._bytes_of_names

    def _place(self, name: str) -> int:
        return self._places[name] if name in self._places else next(self._next_places)

    def _forget(self, name: str) -> bool:
        if (first := self._first_names.get(name)) is None:
            return False
        for each, blocks in self._together.pop(first).items():
            self._blocks.drop(blocks)
            self._bytes_of_names -= len(each)
            del self._first_names[each]
            del self._places[each]
        return True


def _size(pieces: Mapping[str, Blocks]) -> int:
    return sum(len(name) + sum(map(len, blocks)) for name, blocks in pieces.items())
