"""What is kept in this process, as one request sees it: what is large is read on a thread, as a large body is."""

from collections.abc import Mapping

from interface.kept import Kept
from serving.kept_by_engine import MustWait, is_on_a_loop


class KeptHere:
    """See `interface.kept.Kept`. The event loop may read some bytes of it for a request; to parse more would block it.

    Args:
        most_bytes: how many these are.
    """

    def __init__(self, kept: Kept, most_bytes: int) -> None:
        self._kept = kept
        self._room = most_bytes

    def put(self, pieces: Mapping[str, bytes], beside: str | None = None) -> None:
        self._kept.put(pieces, beside)

    def get(self, name: str) -> bytes | None:
        """Raises MustWait."""
        piece = self._kept.get(name)
        self._count(0 if piece is None else len(piece))
        return piece

    def find(self, beginning: str) -> Mapping[str, bytes]:
        """Raises MustWait."""
        found = self._kept.find(beginning)
        self._count(sum(map(len, found.values())))
        return found

    def drop(self, name: str) -> bool:
        return self._kept.drop(name)

    def _count(self, size: int) -> None:
        self._room -= size
        if self._room < 0 and is_on_a_loop():
            raise MustWait
