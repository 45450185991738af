"""Keeps pieces of bytes in this process' memory, up to a limit."""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from backends.shared_blocks import Blocks, SharedBlocks, cut

MOST_BYTES = 32 * 2**20
"""The most bytes of all pieces together, with their names. What several have in common counts once
(`shared_blocks`)."""


@dataclass(eq=False, slots=True)
class _Group:
    """Pieces that are kept together, by their names."""

    pieces: dict[str, Blocks] = field(default_factory=dict)
    size: int = 0
    """Bytes, if they had nothing in common."""


class KeptInMemory:
    """See `interface.kept.Kept`. Nothing here waits for more than the lock."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._by_use: OrderedDict[_Group, None] = OrderedDict()
        """What is kept together; used least recently first."""
        self._groups: dict[str, _Group] = {}
        """For each name, what it is kept with."""
        self._places: dict[str, int] = {}
        """For each name, how many were put before it. One that is put again keeps its place."""
        self._next_places = itertools.count()
        self._blocks = SharedBlocks()
        self._bytes_of_names = 0
        self._lock = threading.Lock()

    def put(self, pieces: Mapping[str, bytes], beside: str | None = None) -> None:
        """Pieces that are too large together take no other's place: they are not kept.

        The cost is that of these pieces, whatever they are kept with.
        """
        new = {name: cut(piece) for name, piece in pieces.items()}
        with self._lock:
            group = _Group() if beside is None else self._groups.get(beside)
            if not new or group is None:
                return
            size = group.size + _size(new) - _size({name: group.pieces[name] for name in new if name in group.pieces})
            if size > self._most_bytes:
                return
            # First, so that blocks which those that are forgotten have in common with these stay.
            new = {name: self._blocks.keep(blocks) for name, blocks in new.items()}
            places = {name: self._place(name) for name in new}
            for name in new:
                if name in group.pieces:
                    self._remove(name, group)
                elif (other := self._groups.get(name)) is not None:
                    self._forget(other)
            group.pieces |= new
            group.size = size
            self._groups |= dict.fromkeys(new, group)
            self._places |= places
            self._bytes_of_names += sum(map(len, new))
            self._use(group)
            while self._bytes > self._most_bytes:
                self._forget(next(iter(self._by_use)))

    def get(self, name: str) -> bytes | None:
        with self._lock:
            if (group := self._groups.get(name)) is None:
                return None
            self._use(group)
            return b"".join(group.pieces[name])

    def find(self, beginning: str) -> Mapping[str, bytes]:
        with self._lock:
            names = [name for name in self._groups if name.startswith(beginning)]
            names.sort(key=self._places.__getitem__)
            return {name: b"".join(self._groups[name].pieces[name]) for name in names}

    def drop(self, name: str) -> bool:
        with self._lock:
            if (group := self._groups.get(name)) is None:
                return False
            self._forget(group)
            return True

    @property
    def _bytes(self) -> int:
        return self._blocks.bytes + self._bytes_of_names

    def _use(self, group: _Group) -> None:
        self._by_use[group] = None
        self._by_use.move_to_end(group)

    def _place(self, name: str) -> int:
        return self._places[name] if name in self._places else next(self._next_places)

    def _forget(self, group: _Group) -> None:
        del self._by_use[group]
        for name in list(group.pieces):
            self._remove(name, group)

    def _remove(self, name: str, group: _Group) -> None:
        self._blocks.drop(group.pieces.pop(name))
        self._bytes_of_names -= len(name)
        del self._groups[name], self._places[name]


def _size(pieces: Mapping[str, Blocks]) -> int:
    return sum(len(name) + sum(map(len, blocks)) for name, blocks in pieces.items())
