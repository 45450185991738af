"""What outlasts the request that made it, for later requests to find."""

from collections.abc import Mapping
from typing import Protocol


class Kept(Protocol):
    """Pieces of bytes with a name each. Those that are kept together are forgotten together.

    There is a limit on all of them; after that, those that were used least recently are forgotten. If another process
    keeps them, the driver decides on which thread each method is called (`serving.kept`).
    """

    def put(self, pieces: Mapping[str, bytes], beside: str | None = None) -> None:
        """Keep pieces together, in place of any that have one of their names.

        With `beside` they are kept together with the piece of that name and all that are kept with it; or not at all,
        if it is not kept.
        """

    def get(self, name: str) -> bytes | None:
        """Return a piece, which counts as a use of all that are kept with it; None if it is not kept."""

    def find(self, beginning: str) -> Mapping[str, bytes]:
        """Return all pieces whose names begin so, in the order in which the names were put first.

        This does not count as a use.
        """

    def drop(self, name: str) -> bool:
        """Forget a piece and all that are kept with it. Return whether it was kept."""


class NothingKept:
    """Keeps nothing."""

    def put(self, pieces: Mapping[str, bytes], beside: str | None = None) -> None:
        pass

    def get(self, name: str) -> bytes | None:
        return None

    def find(self, beginning: str) -> Mapping[str, bytes]:
        return {}

    def drop(self, name: str) -> bool:
        return False
