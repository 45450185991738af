"""The part of what is kept that belongs to one client."""

from collections.abc import Mapping

from interface.kept import Kept


class KeptForOne:
    """What is kept for the holder of one API key, under names that begin with what identifies the key."""

    def __init__(self, kept: Kept, key: str) -> None:
        self._kept = kept
        self._key = key

    def put(self, pieces: Mapping[str, bytes], beside: str | None = None) -> None:
        own = {self._own(name): piece for name, piece in pieces.items()}
        self._kept.put(own, None if beside is None else self._own(beside))

    def get(self, name: str) -> bytes | None:
        return self._kept.get(self._own(name))

    def find(self, beginning: str) -> Mapping[str, bytes]:
        found = self._kept.find(self._own(beginning))
        return {name.removeprefix(self._own("")): piece for name, piece in found.items()}

    def drop(self, name: str) -> bool:
        return self._kept.drop(self._own(name))

    def _own(self, name: str) -> str:
        return f"{self._key} {name}"
