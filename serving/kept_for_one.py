"""The part of what is kept that belongs to one client."""

from collections.abc import Mapping

from interface.kept import Kept


class KeptForOne:
    """What is kept for the holder of one API key, under names that begin with what identifies the key."""

    def __init__(self, kept: Kept, key: str) -> None:
        self._kept = kept
        self._key = key

    def put(self, pieces: Mapping[str, bytes]) -> None:
        self._kept.put({self._own(name): piece for name, piece in pieces.items()})

    def get(self, name: str) -> bytes | None:
        return self._kept.get(self._own(name))

    def drop(self, name: str) -> bool:
        return self._kept.drop(self._own(name))

    def _own(self, name: str) -> str:
        return f"{self._key} {name}"
