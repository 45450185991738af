"""Lays the tokens of one forward out as a batch: one row, without padding.

First comes one token for each request that decodes, in the order of their slots, then the tokens of each that decodes
several, then each prefill chunk. Requests in neighbouring slots attend together, as one run.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from inference.cache.batch import Batch, Run, Segment
from inference.cache.kv_cache import KVCache
from inference.scheduling.scheduler import Schedule
from inference.transfer import to_device

LENGTH_STEP = 16
"""A run reads the cache up to its longest request's length, rounded up to this: whole vectors, and not every shape."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of one request that a forward computes: from position `start` on, into its slot."""

    slot: int
    start: int
    token_ids: Sequence[int]
    sampled: int = 1  # a token is chosen after each of so many of its last ones
    scored: int = 0  # the logits of this many of its first tokens are wanted too

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)


def batch_of(schedule: Schedule, cache: KVCache, device: torch.device) -> Batch:
    """Lay out the work of a step."""
    decoding = [
        Piece(
            sequence.slot,
            sequence.cached_tokens,
            [*sequence.output_ids[-1:], *sequence.draft_ids],
            sampled=1 + len(sequence.draft_ids),
        )
        for sequence in schedule.decoding
    ]
    chunks = [
        Piece(
            chunk.sequence.slot,
            chunk.start,
            chunk.sequence.prompt_ids[chunk.start : chunk.end],
            sampled=int(chunk.completes_prompt),
            scored=len(chunk.scored_ids),
        )
        for chunk in schedule.chunks
    ]
    return lay_out(decoding, chunks, cache, device)


def lay_out(decoding: Sequence[Piece], chunks: Sequence[Piece], cache: KVCache, device: torch.device) -> Batch:
    """Lay out pieces of different slots.

    The logits' rows have the order in which the pieces were given. After those of the tokens that are sampled from come
    those of the tokens that are scored.
    """
    pieces = (*decoding, *chunks)
    singles = sorted((piece for piece in decoding if len(piece.token_ids) == 1), key=lambda piece: piece.slot)
    longer = [*(piece for piece in decoding if len(piece.token_ids) > 1), *chunks]
    token_ids = [piece.token_ids[0] for piece in singles]
    positions = [piece.start for piece in singles]
    slots = [piece.slot for piece in singles]
    runs, starts = _runs(slots, positions, cache.context), tuple(positions)
    segments = list(_segments(longer, first=len(singles)))
    # Where each slot's piece ends in the row of tokens.
    ends = {slot: row for row, slot in enumerate(slots, start=1)} | {segment.slot: segment.last for segment in segments}
    for piece in longer:
        token_ids += piece.token_ids
        positions += range(piece.start, piece.end)
        slots += [piece.slot] * len(piece.token_ids)
    sampled = [row for piece in pieces for row in range(ends[piece.slot] - piece.sampled, ends[piece.slot])]
    for piece, segment in zip(longer, segments, strict=True):
        sampled += range(segment.first, segment.first + piece.scored)
    for piece in pieces:
        cache.storage.reserve(piece.slot, piece.start, piece.end)

    # One copy to the device for all of them, and the host does not wait for it.
    packed = to_device(torch.tensor([token_ids, positions, slots]), device)
    return Batch(
        cache=cache,
        token_ids=packed[0:1],
        positions=packed[1:2],
        slots=packed[2],
        cache_positions=packed[1],
        runs=runs,
        segments=segments,
        starts=starts,
        sampled=to_device(torch.tensor(sampled, dtype=torch.int64), device),
    )


def _segments(pieces: Sequence[Piece], first: int) -> Iterator[Segment]:
    """The places of pieces that follow one another in the row, from token `first` on."""
    for piece in pieces:
        last = first + len(piece.token_ids)
        yield Segment(piece.slot, first, last, piece.start, piece.end)
        first = last


def _runs(slots: Sequence[int], positions: Sequence[int], context: int) -> list[Run]:
    """Cut the decode rows where their slots, which ascend, are not neighbours."""
    borders = [row for row in range(len(slots)) if row == 0 or slots[row] != slots[row - 1] + 1] + [len(slots)]
    runs = []
    for first, last in itertools.pairwise(borders):
        longest = max(positions[first:last]) + 1
        length = min(context, -(-longest // LENGTH_STEP) * LENGTH_STEP)
        runs.append(Run(slots[first], first, last, length))
    return runs
