"""The tokens of one forward as tensors: their ids, where their keys and values go, and which positions each one sees.

All tokens lie in one row, without padding: first one token for each request that decodes, in the order of their
slots, then the tokens of each that decodes several, then each prefill chunk. The linear layers see one long row; only
attention needs to know where a request begins and ends. Requests in neighbouring slots attend together, as one run.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from inference.cache.kv_cache import KVCache
from inference.cache.rows import CachedLayer
from inference.cache.storage import Stale
from inference.scheduling.scheduler import Schedule
from inference.transfer import to_device

LENGTH_STEP = 16
"""A run reads the cache up to its longest request's length, rounded up to this: whole vectors, and not every shape."""

Visible = Callable[[Tensor, Tensor], Tensor]
"""Says which positions of its slot a token may look at, by its own: a mask of booleans."""


def causal(positions: Tensor, keys: Tensor) -> Tensor:
    """A token looks at itself and at everything before it."""
    return keys <= positions


def causal_within(window: int) -> Visible:
    """A token looks at itself and at what is less than `window` positions before it."""
    return lambda positions, keys: (keys <= positions) & (keys > positions - window)


def window_of(visible: Visible, context: int, device: torch.device) -> int | None:
    """How far back tokens may look, if all tokens of a text may look equally far and not to its beginning."""
    positions = torch.cat([torch.arange(max(0, context - ROWS), context), torch.linspace(0, context - 1, ROWS).long()])
    rows = positions.to(device).view(-1, 1, 1)
    keys = torch.arange(context, device=device)
    window = int(visible(rows[min(context, ROWS) - 1], keys).expand(1, context).sum())
    within = causal_within(window)
    # Row by row: all of them at once would take a hundred times the memory of one.
    is_window = all(torch.equal(visible(row, keys).expand(1, context), within(row, keys)) for row in rows)
    return window if window < context and is_window else None


ROWS = 64
"""How many tokens at the end of a text, and how many spread over it, tell how far back all of them look."""

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
    stale: list[Stale] = field(default_factory=list)  # what earlier requests left where new ones begin
    visibilities: list[Visible] = field(default_factory=lambda: [causal])
    used: set[int] = field(default_factory=set)  # which of them the layers have used: attention notes it down
    _masks: dict[object, Tensor] = field(default_factory=dict)
    _slot_mappings: dict[int, Tensor] = field(default_factory=dict)  # made when first asked for

    def layer(self, number: int, key: Tensor, value: Tensor, visible: int) -> CachedLayer:
        """The cache of a layer, of which this batch has the new keys and values [tokens, kv_heads, head_dim]."""
        if number in self.cache.rows.layers:
            return self.cache.rows.layers[number]
        window = window_of(self.visibilities[visible], self.cache.context, key.device)
        _, kv_heads, head_dim = key.shape
        return self.cache.rows.layer(number, kv_heads, head_dim, key.dtype, key.device, value.shape[-1], window)

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

    def segment_mask(self, segment: Segment, visible: int, group: int, dtype: torch.dtype, first: int = 0) -> Tensor:
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


def pack(schedule: Schedule, cache: KVCache, device: torch.device) -> Batch:
    """Lay a schedule out as tensors."""
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
    """The decoding pieces of one token, in the order of their slots, then the longer ones, then the chunks.

    The logits' rows have the order in which the pieces were given. After those of the tokens that are sampled from come
    those that are for its log probabilities.
    """
    pieces = (*decoding, *chunks)
    singles = sorted((piece for piece in decoding if len(piece.token_ids) == 1), key=lambda piece: piece.slot)
    longer = [*(piece for piece in decoding if len(piece.token_ids) > 1), *chunks]
    token_ids = [piece.token_ids[0] for piece in singles]
    positions = [piece.start for piece in singles]
    slots = [piece.slot for piece in singles]
    runs, starts = _runs(slots, positions, cache.context), tuple(positions)
    ends = {slot: row + 1 for row, slot in enumerate(slots)}  # where each slot's piece ends in the row of tokens
    scored: list[int] = []
    segments: list[Segment] = []
    for piece in longer:
        first, size = len(token_ids), len(piece.token_ids)
        segments.append(Segment(piece.slot, first, first + size, piece.start, piece.end))
        token_ids += piece.token_ids
        positions += range(piece.start, piece.end)
        slots += [piece.slot] * size
        ends[piece.slot] = first + size
        scored += range(first, first + piece.scored)
    sampled = [row for piece in pieces for row in range(ends[piece.slot] - piece.sampled, ends[piece.slot])]
    stale = [cache.take(piece.slot, piece.start, piece.end) for piece in pieces]

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
        sampled=to_device(torch.tensor(sampled + scored, dtype=torch.int64), device),
        stale=[left for left in stale if left is not None],
    )


def _runs(slots: Sequence[int], positions: Sequence[int], context: int) -> list[Run]:
    """Cut the decode rows where their slots, which ascend, are no neighbours."""
    borders = [row for row in range(len(slots)) if row == 0 or slots[row] != slots[row - 1] + 1] + [len(slots)]
    runs = []
    for first, last in itertools.pairwise(borders):
        longest = max(positions[first:last]) + 1
        length = min(context, -(-longest // LENGTH_STEP) * LENGTH_STEP)
        runs.append(Run(slots[first], first, last, length))
    return runs
