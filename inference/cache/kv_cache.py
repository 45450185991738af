"""The keys and values of every token in flight.

A slot holds one request's text at a time. Which request holds which slot is the scheduler's business; how a text lies
in memory, and what of an earlier one must be cleared, is that of a `Storage`.
"""

import threading
from collections.abc import Sequence

from inference.cache.rows import Rows
from inference.cache.sizes import SLACK, row_length
from inference.cache.storage import Span, Storage
from inference.scheduling.cache_manager import Retention


class KVCache:
    """Keys and values of every layer: in `rows`, unless a decoder has put another `storage` in their place.

    `row_length` is the context plus at least one, in whole pages: as many positions as a layer has that sees
    everything.
    """

    def __init__(self, slots: int, context: int, slack: int = SLACK) -> None:
        self.slots = slots
        self.context = context
        self.row_length = row_length(context)
        self.rows = Rows(slots, context, slack)
        self.storage: Storage = self.rows

    def provide(self) -> threading.Thread | None:
        """Have memory for the first texts provided before they come: see `Storage`."""
        return self.storage.provide()

    def reserve(self, slot: int, first: int, last: int) -> None:
        """Make positions `first` to `last` of a slot writable: see `Storage`."""
        self.storage.reserve(slot, first, last)

    def copy(self, source: int, target: int, length: int) -> None:
        """Make a slot hold the first `length` positions of another one, and nothing else."""
        self.storage.copy(source, target, length)

    def are_finite(self, spans: Sequence[Span]) -> list[bool]:
        """Whether what was computed for each span is numbers: see `Storage`."""
        return self.storage.are_finite(spans)

    @property
    def bytes(self) -> int:
        """What it takes when every slot is full."""
        return self.storage.bytes

    @property
    def retention(self) -> Retention:
        """How much of a text is still there after it has been computed."""
        return self.storage.retention

    @property
    def shares_beginnings(self) -> bool:
        """Whether `copy` takes next to no time: see `Storage`."""
        return self.storage.shares_beginnings
