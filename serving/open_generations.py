"""The generations that are open on an engine, found by their sequences. Everything here belongs to the event loop."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

from interface.requests import SequenceId
from serving.generation import Generation


class OpenGenerations:
    """A collection of generations; its length is the number of their sequences."""

    def __init__(self) -> None:
        self._generations: dict[Generation, None] = {}
        """In the order in which they came. One that follows another has no sequences."""
        self._by_sequence: dict[SequenceId, Generation] = {}
        self._none_is_left = asyncio.Event()

    def __len__(self) -> int:
        return len(self._by_sequence)

    def __iter__(self) -> Iterator[Generation]:
        """They may be removed during the iteration."""
        return iter(list(self._generations))

    def __contains__(self, generation: Generation) -> bool:
        return generation in self._generations

    def of(self, sequence_id: SequenceId) -> Generation | None:
        return self._by_sequence.get(sequence_id)

    def add(self, generation: Generation) -> None:
        self._generations[generation] = None
        self._by_sequence |= dict.fromkeys(generation.sequence_ids, generation)
        self._none_is_left.clear()

    def remove(self, generation: Generation) -> None:
        self._generations.pop(generation, None)
        for sequence_id in generation.sequence_ids:
            self._by_sequence.pop(sequence_id, None)
        if not self._generations:
            self._none_is_left.set()

    async def wait_until_none(self, seconds: float) -> None:
        """Return when the last one has been removed, or after `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._generations:
                    await self._none_is_left.wait()

    @property
    def cache_tokens(self) -> int:
        """Tokens that they have in the cache together."""
        return sum(generation.cache_tokens for generation in self)
