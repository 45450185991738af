"""One forward's tokens as tensors: who they are, where their keys and values go, and what each may look at.

All tokens lie in one row, without padding: first one token for each request that decodes, in the order of their
slots, then each prefill chunk. The linear layers see one long row; only attention needs to know where a request begins
and ends. Requests in neighbouring slots attend together, as one run.
"""

import itertools
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from inference.cache.kv_cache import KVCache
from inference.scheduling.scheduler import Schedule
from inference.scheduling.sequence import Sequence

LENGTH_STEP = 16
"""A run reads the cache up to its longest request's length, rounded up to this: whole vectors, and not every shape."""


@dataclass(frozen=True, slots=True)
class Run:
    """Decoding requests in neighbouring slots: tokens `first` to `last` of the row, from slot `slot` on."""

    slot: int
    first: int
    last: int
    length: int  # columns of the cache to read


@dataclass(frozen=True, slots=True)
class Segment:
    """A prefill chunk's place: tokens `first` to `last` of the row are positions `start` to `end` of its slot."""

    slot: int
    first: int
    last: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What `slot_attention` is told beside the queries, keys and values."""

    cache: KVCache
    token_ids: Tensor  # [1, tokens]
    positions: Tensor  # [1, tokens]
    slots: Tensor  # [tokens]
    columns: Tensor  # [tokens], where in its slot a token's keys and values are written: at its position, as a rule
    runs: list[Run]
    segments: list[Segment]
    sampled: Tensor  # [sampled], the tokens whose logits are wanted
    windows: set[int | None] = field(default_factory=set)  # how far back the layers have looked; None: all the way
    _masks: dict[object, Tensor] = field(default_factory=dict)
    _places: list[Tensor] = field(default_factory=list)  # made when first asked for

    def places(self) -> Tensor:
        """Where the new keys and values go in every layer: [2 * tokens]."""
        if not self._places:
            self._places.append(self.cache.places(self.slots, self.columns))
        return self._places[0]

    def run_mask(self, run: Run, window: int | None, dtype: torch.dtype) -> Tensor:
        """Added to a run's scores: [requests, 1, 1, length], 0 or -inf."""
        key = (run, window)
        if key not in self._masks:
            positions = self.positions[0, run.first : run.last, None, None, None]
            self._masks[key] = _causal_mask(positions, run.length, window, dtype)
        return self._masks[key]

    def segment_mask(self, segment: Segment, window: int | None, group: int, dtype: torch.dtype) -> Tensor:
        """Added to a chunk's scores, for each of a group of heads: [1, 1, group * tokens, end], 0 or -inf."""
        key = (segment, window, group)
        if key not in self._masks:
            positions = self.positions[:, None, segment.first : segment.last, None]
            self._masks[key] = _causal_mask(positions, segment.end, window, dtype).repeat(1, 1, group, 1)
        return self._masks[key]


class Decoder(Protocol):
    """Computes a batch: its logits [sampled, vocabulary], and the new tokens' keys and values in its cache."""

    def forward(self, batch: Batch) -> Tensor: ...


def _causal_mask(positions: Tensor, length: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """0 where a query at `positions` [..., 1] may look at a key in `length` columns, -inf elsewhere."""
    columns = torch.arange(length, device=positions.device)
    visible = columns <= positions
    if window is not None:
        visible &= columns > positions - window
    return torch.zeros(visible.shape, dtype=dtype, device=positions.device).masked_fill_(~visible, float("-inf"))


def pack(schedule: Schedule, cache: KVCache, device: torch.device) -> Batch:
    """Lay a schedule out as tensors."""
    decoding = sorted(schedule.decoding, key=_slot)
    token_ids = [sequence.output_ids[-1] for sequence in decoding]
    positions = [sequence.cached_tokens for sequence in decoding]
    slots = [_slot(sequence) for sequence in decoding]
    runs = _runs(slots, positions, cache.context)
    row_of_slot = {slot: row for row, slot in enumerate(slots)}
    sampled = [row_of_slot[_slot(sequence)] for sequence in schedule.decoding]
    segments: list[Segment] = []
    for chunk in schedule.chunks:
        first, size = len(token_ids), chunk.end - chunk.start
        segments.append(Segment(_slot(chunk.sequence), first, first + size, chunk.start, chunk.end))
        token_ids += chunk.sequence.prompt_ids[chunk.start : chunk.end]
        positions += range(chunk.start, chunk.end)
        slots += [_slot(chunk.sequence)] * size
        if chunk.completes_prompt:
            sampled.append(len(token_ids) - 1)

    # One copy to the device for all of them, and nobody waits for it.
    packed = torch.tensor([token_ids, positions, slots]).to(device, non_blocking=True)
    return Batch(
        cache=cache,
        token_ids=packed[0:1],
        positions=packed[1:2],
        slots=packed[2],
        columns=packed[1],
        runs=runs,
        segments=segments,
        sampled=torch.tensor(sampled, dtype=torch.int64).to(device, non_blocking=True),
    )


def _slot(sequence: Sequence) -> int:
    assert sequence.slot is not None
    return sequence.slot


def _runs(slots: Rows[int], positions: Rows[int], context: int) -> list[Run]:
    """Cut the decode rows where their slots, which ascend, are no neighbours."""
    borders = [row for row in range(len(slots)) if row == 0 or slots[row] != slots[row - 1] + 1] + [len(slots)]
    runs = []
    for first, last in itertools.pairwise(borders):
        longest = max(positions[first:last]) + 1
        length = min(context, -(-longest // LENGTH_STEP) * LENGTH_STEP)
        runs.append(Run(slots[first], first, last, length))
    return runs
