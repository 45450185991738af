"""One forward's tokens as tensors: who they are, where their keys and values go, and what each may look at.

All tokens lie in one row, without padding between prompts: first the decode rows, one token for each slot from 0 to
the highest that decodes (slots between that do not decode carry a token that nobody reads), then each prefill chunk.
The linear layers see one long row; only attention needs to know where a request begins and ends.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from inference.kv_cache import KVCache
from inference.scheduler import Schedule

LENGTH_STEP = 64
"""Decode reads the cache up to the longest row's length, rounded up to this."""


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
    columns: Tensor  # [tokens], where in its slot a token's keys and values are written
    decode_rows: int
    decode_length: int  # columns that the decode rows read
    segments: list[Segment]
    sampled: Tensor  # [sampled], the tokens whose logits are wanted
    _masks: dict[object, Tensor] = field(default_factory=dict)

    def decode_mask(self, window: int | None) -> Tensor:
        """Added to the decode rows' scores: [rows, 1, 1, length], 0 or -inf."""
        key = ("decode", window)
        if key not in self._masks:
            positions = self.positions[0, : self.decode_rows, None, None, None]
            self._masks[key] = _causal_mask(positions, self.decode_length, window)
        return self._masks[key]

    def segment_mask(self, segment: Segment, window: int | None) -> Tensor:
        """Added to a chunk's scores: [1, 1, tokens of the chunk, end], 0 or -inf."""
        key = (segment, window)
        if key not in self._masks:
            positions = self.positions[:, None, segment.first : segment.last, None]
            self._masks[key] = _causal_mask(positions, segment.end, window)
        return self._masks[key]


def _causal_mask(positions: Tensor, length: int, window: int | None) -> Tensor:
    """0 where a query at `positions` [..., 1] may look at a key in `length` columns, -inf elsewhere."""
    columns = torch.arange(length, device=positions.device)
    visible = columns <= positions
    if window is not None:
        visible &= columns > positions - window
    return torch.zeros(visible.shape, device=positions.device).masked_fill_(~visible, float("-inf"))


def pack(schedule: Schedule, cache: KVCache, device: torch.device) -> Batch:
    """Lay a schedule out as tensors."""
    rows = max((sequence.slot + 1 for sequence in schedule.decoding if sequence.slot is not None), default=0)
    token_ids = [0] * rows
    positions = [0] * rows
    columns = [cache.unused_column] * rows
    slots = list(range(rows))
    sampled: list[int] = []
    longest = 0
    for sequence in schedule.decoding:
        assert sequence.slot is not None
        position = sequence.cached_tokens
        token_ids[sequence.slot] = sequence.output_ids[-1]
        positions[sequence.slot] = columns[sequence.slot] = position
        sampled.append(sequence.slot)
        longest = max(longest, position + 1)
    segments: list[Segment] = []
    for chunk in schedule.chunks:
        assert chunk.sequence.slot is not None
        first, size = len(token_ids), chunk.end - chunk.start
        segments.append(Segment(chunk.sequence.slot, first, first + size, chunk.start, chunk.end))
        token_ids += chunk.sequence.prompt_ids[chunk.start : chunk.end]
        positions += range(chunk.start, chunk.end)
        columns += range(chunk.start, chunk.end)
        slots += [chunk.sequence.slot] * size
        if chunk.completes_prompt:
            sampled.append(len(token_ids) - 1)

    # One copy to the device for all of them.
    packed = torch.tensor([token_ids, positions, slots, columns], device=device)
    return Batch(
        cache=cache,
        token_ids=packed[0:1],
        positions=packed[1:2],
        slots=packed[2],
        columns=packed[3],
        decode_rows=rows,
        decode_length=min(cache.context, -(-longest // LENGTH_STEP) * LENGTH_STEP),
        segments=segments,
        sampled=torch.tensor(sampled, dtype=torch.int64, device=device),
    )
