"""The keys and values of every token in flight, and how much of each slot has been written.

A slot holds one request's text at a time. Which request holds which slot is the scheduler's business; how a text lies
in memory is that of a `Storage`.

Attention reads a slot up to the longest of its neighbours, or to the end of a block, and hides what lies behind the
slot's own last token by weights of zero. Zero times NaN is NaN, so what an earlier request has left there must not
stay: `take` notices when a request begins before the end of another's text, and the positions in between are cleared at
the next write.
"""

from collections.abc import Sequence

from inference.cache.rows import Rows
from inference.cache.sizes import SLACK, row_length
from inference.cache.storage import Span, Stale, Storage
from inference.scheduling.cache_manager import Retention


class KVCache:
    """Keys and values of every layer: in `rows`, unless a decoder has put another `storage` in their place.

    `row_length` is the context plus at least one, in whole chunks: as many positions as a layer has that sees
    everything.
    """

    def __init__(self, slots: int, context: int, slack: int = SLACK) -> None:
        self.slots = slots
        self.context = context
        self.row_length = row_length(context)
        self.rows = Rows(slots, context, slack)
        self.storage: Storage = self.rows
        self._written = [0] * slots  # positions that have been written, from the first on

    def take(self, slot: int, first: int, last: int) -> Stale | None:
        """Note that positions `first` to `last` of a slot are going to be written.

        Returns:
            What another request has left behind them, if any.
        """
        self.storage.reserve(slot, first, last)
        written, self._written[slot] = self._written[slot], last
        return Stale(slot, first, written) if first < written else None

    def distrust(self, slot: int) -> None:
        """Note that a step has failed that was to write to a slot: anything may lie there."""
        self._written[slot] = self.row_length

    def copy(self, source: int, target: int, length: int) -> None:
        """Make a slot hold the first `length` positions of another one, and nothing else."""
        self.storage.copy(source, target, length, self._written)
        self._written[target] = length

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
