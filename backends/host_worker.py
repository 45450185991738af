"""One worker, as the engine's process knows it."""

import asyncio

from backends.channel import Channel
from interface.engine import Tally
from interface.requests import SequenceId

SHIFT = 48
"""Bits of a sequence's number that are its worker's own."""
OWN = (1 << SHIFT) - 1


class Worker:
    """One worker, as long as it is connected."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.channel: Channel
        self.is_welcome = False
        self.tally = Tally()
        self.tasks: set[asyncio.Task[None]] = set()
        """Those that answer its requests."""

    def here(self, sequence_id: SequenceId) -> SequenceId:
        """The number, here, of a sequence that has this one there. Raises ValueError for one that is too large."""
        if not 0 <= sequence_id <= OWN:
            raise ValueError(f"expected a sequence's number from 0 to {OWN}, got {sequence_id}")
        return self.number << SHIFT | sequence_id


def there(sequence_id: SequenceId) -> SequenceId:
    """The number that its worker has given to a sequence."""
    return sequence_id & OWN
