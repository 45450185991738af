"""The keys and values of every token in flight.

A slot holds one request's text at a time. Which request holds which slot is the scheduler's business; how a text lies
in memory, and what of an earlier one must be cleared, is that of the `storage`.
"""

from inference.cache.rows import Rows
from inference.cache.sizes import SLACK, row_length
from inference.cache.storage import Storage


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
