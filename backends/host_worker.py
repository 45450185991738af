"""One worker, as the engine's process knows it."""

import asyncio

from backends.channel import Channel
from interface.engine import Tally
from interface.requests import SequenceId

SHIFT = 48
"""Bits for the number that the worker gave a sequence; the bits above hold the worker's own number."""
OWN = (1 << SHIFT) - 1


class Worker:
    """One worker, as long as it is connected."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.channel: Channel
        self.is_welcome = False
        self.tally = Tally()
        self.tasks: set[asyncio.Task[None]] = set()
        """The tasks that answer its requests."""

    def to_engine_id(self, sequence_id: SequenceId) -> SequenceId:
        """The engine's number for a sequence that this worker calls `sequence_id`.

        Raises:
            ValueError: the worker's number is too large.
        """
        if not 0 <= sequence_id <= OWN:
            raise ValueError(f"expected a sequence's number from 0 to {OWN}, got {sequence_id}")
        return self.number << SHIFT | sequence_id


def to_worker_id(sequence_id: SequenceId) -> SequenceId:
    """The worker's number for a sequence that the engine calls `sequence_id`."""
    return sequence_id & OWN
