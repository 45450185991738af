"""The tokens of one forward as tensors: their ids, where their keys and values go, and which positions each one sees.

All tokens lie in one row, without padding; `layout` makes it. The linear layers see one long row; only attention needs
to know where a request begins and ends.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from inference.cache.kv_cache import KVCache
from inference.cache.rows import CachedLayer
from inference.cache.visibility import Visible, causal, causal_within, window_of

CAUSAL = 0
"""The number of `causal` among a batch's visibilities."""


@dataclass(frozen=True, slots=True)
class Run:
    """Decoding requests in neighbouring slots: tokens `first` to `last` of the row, from slot `slot` on."""

    slot: int
    first: int
    last: int
    length: int  # positions of the cache to read


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
    """The input of `slot_attention` in addition to the queries, keys and values."""

    cache: KVCache
    token_ids: Tensor  # [1, tokens]
    positions: Tensor  # [1, tokens]
    slots: Tensor  # [tokens]
    cache_positions: Tensor  # [tokens], where in its slot a token's keys and values are written
    runs: list[Run]
    segments: list[Segment]
    sampled: Tensor  # [sampled], the tokens whose logits are wanted
    starts: Sequence[int] = ()  # of `positions`, those of the runs' tokens
    visibilities: list[Visible] = field(default_factory=lambda: [causal])
    used: set[int] = field(default_factory=set)  # which of them the layers have used: attention notes it down
    _masks: dict[object, Tensor] = field(default_factory=dict)
    _slot_mappings: dict[int, Tensor] = field(default_factory=dict)  # made when first asked for

    def parts(self) -> Iterator[tuple[Sequence[int], "Batch", Tensor]]:
        """This batch in parts: that of all the texts of one token each, which decode, and one for each prefill chunk.

        Yields:
            slots, part, rows [sampled of the part]: which of the logits' rows are the part's.
        """
        if self.runs:
            slots = [slot for run in self.runs for slot in range(run.slot, run.slot + run.last - run.first)]
            yield slots, *self._part(0, len(slots), runs=self.runs, segments=[])
        for segment in self.segments:
            moved = Segment(segment.slot, 0, segment.last - segment.first, segment.start, segment.end)
            yield [segment.slot], *self._part(segment.first, segment.last, runs=[], segments=[moved])

    def _part(self, first: int, last: int, runs: list[Run], segments: list[Segment]) -> tuple["Batch", Tensor]:
        """Tokens `first` to `last` of the row as a batch, and which of the logits' rows are theirs."""
        rows = ((self.sampled >= first) & (self.sampled < last)).nonzero()[:, 0]
        part = Batch(
            cache=self.cache,
            token_ids=self.token_ids[:, first:last],
            positions=self.positions[:, first:last],
            slots=self.slots[first:last],
            cache_positions=self.cache_positions[first:last],
            runs=runs,
            segments=segments,
            sampled=self.sampled[rows] - first,
            starts=self.starts[first:last] if runs else (),
        )
        return part, rows

    def layer(self, number: int, key: Tensor, value: Tensor, visible: int) -> CachedLayer:
        """The cache of a layer, of which this batch has the new keys and values [tokens, kv_heads, head_dim]."""
        if number in self.cache.rows.layers:
            return self.cache.rows.layers[number]
        window = window_of(self.visibilities[visible], self.cache.context, key.device)
        _, kv_heads, head_dim = key.shape
        return self.cache.rows.layer(number, kv_heads, head_dim, key.dtype, key.device, value.shape[-1], window)

    def visibility(self, window: int | None) -> int:
        """The number of the function for layers that look back over a window, or to the beginning."""
        if window is None:
            return CAUSAL
        self.visibilities.append(causal_within(window))
        return len(self.visibilities) - 1

    def slot_mapping(self, layer: CachedLayer) -> Tensor:
        """Where the new keys and values go in a layer: [2 * tokens]."""
        if layer.kept not in self._slot_mappings:
            columns = self.cache_positions if layer.window is None else self._ring_columns(layer.kept)
            row_length = layer.stored[0].shape[1]
            self._slot_mappings[layer.kept] = self.cache.rows.slot_mapping(self.slots, columns, row_length)
        return self._slot_mappings[layer.kept]

    def _ring_columns(self, kept: int) -> Tensor:
        """Where in a ring each token goes: what the same step would write over goes to the column that is not read."""
        columns = torch.where(self.cache_positions < self.cache.context, self.cache_positions % kept, kept)
        for segment in self.segments:
            columns[segment.first : max(segment.first, segment.last - kept)] = kept
        return columns

    def run_mask(self, run: Run, visible: int, dtype: torch.dtype, kept: int) -> Tensor:
        """Added to a run's scores: [requests, 1, 1, length or kept], 0 or -inf."""
        key = (run, visible, min(run.length, kept))
        if key not in self._masks:
            positions = self.positions[0, run.first : run.last, None, None, None]
            keys = torch.arange(min(run.length, kept), device=positions.device)
            if run.length > kept:
                keys = positions - (positions - keys) % kept  # what each column of a ring holds for this token
            self._masks[key] = self._mask(positions, keys, visible, dtype)
        return self._masks[key]

    def segment_mask(self, segment: Segment, visible: int, group: int, dtype: torch.dtype, first: int) -> Tensor:
        """Added to a chunk's scores, for each of a group of heads: [1, 1, group * tokens, end - first], 0 or -inf."""
        key = (segment, visible, group, first)
        if key not in self._masks:
            positions = self.positions[:, None, segment.first : segment.last, None]
            keys = torch.arange(first, segment.end, device=positions.device)
            self._masks[key] = self._mask(positions, keys, visible, dtype).repeat(1, 1, group, 1)
        return self._masks[key]

    def _mask(self, positions: Tensor, keys: Tensor, visible: int, dtype: torch.dtype) -> Tensor:
        """0 where a query at `positions` [..., 1] may look at one of `keys`, -inf elsewhere; negative ones are none."""
        seen = self.visibilities[visible](positions, keys) & (keys >= 0)
        return torch.zeros(seen.shape, dtype=dtype, device=positions.device).masked_fill_(~seen, float("-inf"))
