"""Begins the next decode step while the host has yet to learn this one's tokens.

A GPU that waits for its host stands still: reading the tokens, making text of them, scheduling and launching take about
as long as a small model's step. But what the model computes next depends on nothing of that. As soon as the tokens are
chosen, on the GPU, the step after them is put in its queue: the same sequences, one position further. When the host
then asks for just that step, its logits are there or on their way. Whenever it asks for another, because a sequence has
ended or come, this one was in vain, and what it has written is written over.

Masks, penalties and temperatures are as exact as ever: they come after the logits.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from inference.cache.kv_cache import KVCache
from inference.decoders.decoder import Decoder
from inference.sampling.draw import ChooserThere
from inference.scheduling.sample_args import SampleArgs
from inference.scheduling.scheduler import Schedule

Place = tuple[int, int]
"""A slot, and the position of its newest token, which a step computes."""
Row = tuple[int, int, int]
"""The same, and that token."""


@runtime_checkable
class GoesOn(Decoder, Protocol):
    """A decoder that can compute the next step from tokens that only its device knows."""

    def go_on(self, tokens: Tensor) -> Tensor:
        """The logits of the step after the last one, in the same order. A token may be -1, in a row that has ended."""


class Ahead:
    """One step that may have been begun.

    Args:
        choose_there: chooses tokens without waiting for them.
    """

    def __init__(self, decoder: GoesOn, cache: KVCache, choose_there: ChooserThere) -> None:
        self._decoder = decoder
        self._choose_there = choose_there
        self._cache = cache
        self._places: list[Place] = []  # of the step that is running, if the one after it can be foreseen
        self._begun: tuple[list[Row], Tensor] | None = None  # what has been begun, and its logits

    def note(self, schedule: Schedule) -> None:
        """Remember that a schedule is computed now, and not what has been begun."""
        self._places = [] if schedule.chunks else [(slot, position) for slot, position, _ in _rows(schedule)]
        self._begun = None

    def take(self, schedule: Schedule) -> Tensor | None:
        """The logits of a schedule, if that is what has been begun."""
        begun, self._begun = self._begun, None
        if begun is None or schedule.chunks or schedule.copies or begun[0] != _rows(schedule):
            return None
        self._places = [(slot, position) for slot, position, _ in begun[0]]
        return begun[1]

    def choose(self, logits: Tensor, rows: Sequence[SampleArgs]) -> list[int | None]:
        """Choose a token for each row, as `draw.choose` does, and begin the next step before they are read."""
        tokens = self._choose_there(logits, rows)
        fetched = _Fetched(tokens)
        places = [(slot, position + 1) for slot, position in self._places]
        is_foreseen = bool(places) and all(position < self._cache.context for _, position in places)
        following = self._begin(places, tokens) if is_foreseen else None
        chosen = fetched.wait()
        if following is not None:
            coming = [(*place, token) for place, token in zip(places, chosen, strict=True)]
            self._begun = coming, following
        return [None if token < 0 else token for token in chosen]

    def _begin(self, places: Sequence[Place], tokens: Tensor) -> Tensor:
        for slot, position in places:
            self._cache.take(slot, position, position + 1)
        return self._decoder.go_on(tokens)


class _Fetched:
    """Tokens on their way to the host, which waits for them and for nothing that comes after them."""

    def __init__(self, tokens: Tensor) -> None:
        self._tokens = tokens
        self._arrived: torch.cuda.Event | None = None
        if tokens.is_cuda:
            self._tokens = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
            self._tokens.copy_(tokens, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def wait(self) -> list[int]:
        if self._arrived is not None:
            self._arrived.synchronize()
        return [int(token) for token in self._tokens.tolist()]


def _rows(schedule: Schedule) -> list[Row]:
    rows = []
    for sequence in schedule.decoding:
        assert sequence.slot is not None
        rows.append((sequence.slot, sequence.cached_tokens, sequence.output_ids[-1]))
    return rows
