"""One forward's tokens as tensors: who they are, where their keys and values go, and what each may look at.

All tokens lie in one row, without padding: first one token for each request that decodes, in the order of their
slots, then each prefill chunk. The linear layers see one long row; only attention needs to know where a request begins
and ends. Requests in neighbouring slots attend together, as one run.
"""

import itertools
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from inference.cache.kv_cache import KVCache, Stale
from inference.scheduling.scheduler import Schedule
from inference.scheduling.sequence import Sequence

LENGTH_STEP = 16
"""A run reads the cache up to its longest request's length, rounded up to this: whole vectors, and not every shape."""

Visible = Callable[[Tensor, Tensor], Tensor]
"""Says which columns of its slot a token may look at, by its position and theirs: a mask of booleans."""


def causal(positions: Tensor, columns: Tensor) -> Tensor:
    """A token looks at itself and at everything before it."""
    return columns <= positions


def causal_within(window: int) -> Visible:
    """A token looks at itself and at what is less than `window` positions before it."""
    return lambda positions, columns: (columns <= positions) & (columns > positions - window)


CAUSAL = 0
"""The number of `causal` among a batch's visibilities."""


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
    stale: list[Stale] = field(default_factory=list)  # what earlier requests left where new ones begin
    visibilities: list[Visible] = field(default_factory=lambda: [causal])
    used: dict[int, int] = field(default_factory=dict)  # which of them each layer has used: what attention notes down
    _masks: dict[object, Tensor] = field(default_factory=dict)
    _places: list[Tensor] = field(default_factory=list)  # made when first asked for

    def places(self) -> Tensor:
        """Where the new keys and values go in every layer: [2 * tokens]."""
        if not self._places:
            self._places.append(self.cache.places(self.slots, self.columns))
        return self._places[0]

    def run_mask(self, run: Run, visible: int, dtype: torch.dtype) -> Tensor:
        """Added to a run's scores: [requests, 1, 1, length], 0 or -inf."""
        key = (run, visible)
        if key not in self._masks:
            positions = self.positions[0, run.first : run.last, None, None, None]
            self._masks[key] = self._mask(positions, run.length, visible, dtype)
        return self._masks[key]

    def segment_mask(self, segment: Segment, visible: int, group: int, dtype: torch.dtype) -> Tensor:
        """Added to a chunk's scores, for each of a group of heads: [1, 1, group * tokens, end], 0 or -inf."""
        key = (segment, visible, group)
        if key not in self._masks:
            positions = self.positions[:, None, segment.first : segment.last, None]
            self._masks[key] = self._mask(positions, segment.end, visible, dtype).repeat(1, 1, group, 1)
        return self._masks[key]

    def _mask(self, positions: Tensor, length: int, visible: int, dtype: torch.dtype) -> Tensor:
        """0 where a query at `positions` [..., 1] may look at a key in `length` columns, -inf elsewhere."""
        columns = torch.arange(length, device=positions.device)
        seen = self.visibilities[visible](positions, columns)
        return torch.zeros(seen.shape, dtype=dtype, device=positions.device).masked_fill_(~seen, float("-inf"))


class Decoder(Protocol):
    """Computes a batch: its logits [sampled, vocabulary], and the new tokens' keys and values in its cache."""

    def forward(self, batch: Batch) -> Tensor: ...


def pack(schedule: Schedule, cache: KVCache, device: torch.device) -> Batch:
    """Lay a schedule out as tensors."""
    decoding = sorted(schedule.decoding, key=_slot)
    token_ids = [sequence.output_ids[-1] for sequence in decoding]
    positions = [sequence.cached_tokens for sequence in decoding]
    slots = [_slot(sequence) for sequence in decoding]
    runs = _runs(slots, positions, cache.context)
    row_of_slot = {slot: row for row, slot in enumerate(slots)}
    sampled = [row_of_slot[_slot(sequence)] for sequence in schedule.decoding]
    stale = [cache.take(_slot(sequence), sequence.cached_tokens, sequence.cached_tokens + 1) for sequence in decoding]
    segments: list[Segment] = []
    for chunk in schedule.chunks:
        stale.append(cache.take(_slot(chunk.sequence), chunk.start, chunk.end))
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
        stale=[left for left in stale if left is not None],
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
