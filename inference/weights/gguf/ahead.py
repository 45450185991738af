"""Keeps a GGUF file that has been opened until it is opened again: reading a vocabulary takes a tenth of a second."""

import os
from pathlib import Path

from inference.weights.gguf.file import GGUFFile, parts_of

Stamp = list[tuple[int, int, int, int]]


class OpenedAhead:
    """At most one file, until it is opened for good."""

    def __init__(self) -> None:
        self._kept: tuple[Path, Stamp, GGUFFile] | None = None

    def open(self, path: Path) -> GGUFFile:
        """Open a file that is going to be opened again soon. See `GGUFFile.open`."""
        stamp = _stamp(path)
        file = GGUFFile.open(path)
        self._kept = path, stamp, file
        return file

    def take(self, path: Path) -> GGUFFile:
        """Open a file, or return it if it is the one that was opened and has not been changed."""
        kept, self._kept = self._kept, None
        if kept is not None and kept[0] == path and kept[1] == _stamp(path):
            return kept[2]
        return GGUFFile.open(path)

    def give_back(self) -> None:
        """Forget the file."""
        self._kept = None


OPENED = OpenedAhead()
"""The file that is being loaded."""


def _stamp(path: Path) -> Stamp:
    """What changes with the content of a file, or of one of its parts."""
    stats = map(os.stat, parts_of(path))
    return [(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]
