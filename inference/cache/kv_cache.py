"""The keys and values of every token in flight: one row per slot, one column per position.

The tensors never move and never grow, and a slot's row is simply written over by its next request. Which request
holds which slot is the scheduler's business; this file owns the tensors alone.

A layer whose tokens look back only so far, over a sliding window, forgets what no token may see any more: its row is a
ring, a little longer than the window, in which position p lies in column p modulo the ring's length. A layer that
sees everything is a ring that never comes round.

Attention reads a slot up to the longest of its neighbours, and hides what lies behind the slot's own last token by
weights of zero. Zero times NaN is NaN, so what an earlier request has left there must not stay: `take` notices when a
request begins before the end of another's text, and the positions in between are cleared at the next write.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from inference.cache.sizes import BLOCK, SLACK, column_count, kept_positions, row_length
from inference.scheduling.cache_manager import Retention
from inference.transfer import to_device

PAIRED_KEYS = 16


@dataclass(frozen=True, slots=True)
class Stale:
    """Positions `first` to `last` of a slot, the latter not included, that belong to no running request."""

    slot: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class CachedLayer:
    """One layer's tensors [slots, columns, kv_heads, head_dim]; a ring has a column more, which is never read."""

    stored: tuple[Tensor, Tensor]  # keys and values
    both: Tensor | None  # [2, slots, columns, kv_heads, head_dim], what they are halves of if they are of one width
    kept: int  # positions of a text, the last ones
    window: int | None = None  # how far back a token looks, itself included, if older positions are forgotten

    @property
    def keys(self) -> Tensor:
        """As attention reads them: [slots, kv_heads, columns, head_dim]."""
        return self.stored[0].transpose(1, 2)

    @property
    def values(self) -> Tensor:
        """As attention reads them: [slots, kv_heads, columns, head_dim]."""
        return self.stored[1].transpose(1, 2)

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.stored)

    def columns(self, first: int, last: int) -> Tensor:
        """Where positions `first` to `last` lie, without those that are forgotten."""
        return torch.arange(max(first, last - self.kept), last, device=self.stored[0].device) % self.kept

    def clear(self, stale: Stale) -> None:
        columns = self.columns(stale.first, stale.last)
        for tensor in self.stored:
            tensor[stale.slot, columns] = 0

    def write(self, keys: Tensor, values: Tensor, slot_mapping: Tensor) -> None:
        """Store `keys` and `values` [tokens, kv_heads, head_dim] where `slot_mapping` [2 * tokens] says."""
        tokens, kv_heads, head_dim = keys.shape
        if self.both is not None:
            self.both.view(-1, kv_heads, head_dim).index_copy_(0, slot_mapping, torch.cat([keys, values]))
            return
        for tensor, new in zip(self.stored, (keys, values), strict=True):
            tensor.view(-1, kv_heads, new.shape[-1]).index_copy_(0, slot_mapping[:tokens], new)


class KVCache:
    """Keys and values of every layer.

    `row_length` is the context plus at least one, in whole blocks: as many columns as a layer has that sees everything.
    A layer's tensors are made when it is first asked for, in the shape that is asked for: any model's heads will do.
    """

    def __init__(self, slots: int, context: int, slack: int = SLACK) -> None:
        self.slots = slots
        self.context = context
        self.row_length = row_length(context)
        self.layers: dict[int, CachedLayer] = {}
        self.is_head_major = False
        """Set by a decoder that fills a slot head after head, each in blocks of BLOCK positions."""
        self.keys_in_pairs = False
        """Set by one whose keys lie there in blocks of `PAIRED_KEYS`: [head_dim / 2][PAIRED_KEYS][2]."""
        self._slack = slack
        self._written = [0] * slots  # positions that have been written, from the first on

    def layer(
        self,
        number: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        value_dim: int | None = None,
        window: int | None = None,
    ) -> CachedLayer:
        """A layer's keys and values. The first call makes them, empty.

        Args:
            value_dim: the values' width where it is not the keys'.
            window: how far back a token looks; None: to the text's beginning.
        """
        if number not in self.layers:
            kept = kept_positions(self.context, window, self._slack)
            is_ring = kept < self.row_length
            rows = (self.slots, column_count(self.context, window, self._slack), kv_heads)
            both = None
            if value_dim is None or value_dim == head_dim:
                both = _zeros((2, *rows, head_dim), dtype, device)
                stored = both[0], both[1]
            else:
                stored = _zeros((*rows, head_dim), dtype, device), _zeros((*rows, value_dim), dtype, device)
            self.layers[number] = CachedLayer(stored, both, kept, window if is_ring else None)
        return self.layers[number]

    def take(self, slot: int, first: int, last: int) -> Stale | None:
        """Note that positions `first` to `last` of a slot are going to be written.

        Returns:
            What another request has left behind them, if any.
        """
        written, self._written[slot] = self._written[slot], last
        return Stale(slot, first, written) if first < written else None

    def distrust(self, slot: int) -> None:
        """Note that a step has failed that was to write to a slot: anything may lie there."""
        self._written[slot] = self.row_length

    def copy(self, source: int, target: int, length: int) -> None:
        """Make a slot hold the first `length` positions of another one, in every layer.

        What lies behind them is cleared: now, or, where slots are filled head after head, by the next step.
        """
        if self.is_head_major:
            columns = -(-length // BLOCK) * BLOCK
            for layer in self.layers.values():
                self._copy_heads(layer, source, target, columns)
            copied = min(columns, self._written[source])
            self._written[target] = max(length, copied, self._written[target])
            return
        for layer in self.layers.values():
            # A ring is copied as it lies, with what follows.
            is_ring = layer.window is not None
            columns = layer.kept if is_ring else length
            for tensor in layer.stored:
                tensor[target, :columns] = tensor[source, :columns]
            if (written := self._written[source if is_ring else target]) > length:
                layer.clear(Stale(target, length, written))
        self._written[target] = length

    def _copy_heads(self, layer: CachedLayer, source: int, target: int, columns: int) -> None:
        for tensor in layer.stored:
            slots, row_length, kv_heads, head_dim = tensor.shape
            heads = tensor.view(slots, kv_heads, row_length, head_dim)
            heads[target, :, :columns] = heads[source, :, :columns]

    def slot_mapping(self, slots: Tensor, columns: Tensor, row_length: int) -> Tensor:
        """Where the keys, then the values, of `slots`, `columns` [tokens] lie in a layer: [2 * tokens]."""
        keys = slots * row_length + columns
        return torch.cat([keys, keys + self.slots * row_length])

    def are_finite(self, pieces: Sequence[tuple[int, int, int]]) -> list[bool]:
        """Whether the last layer's keys are numbers, for each piece: positions `first` to `last` of `slot`.

        Whatever becomes NaN or infinite on its way through the layers is so there, and in the last layer that forgets
        nothing. On a GPU this waits for it.
        """
        if not pieces or not self.layers:
            return [True] * len(pieces)
        last = max(self.layers)
        last_whole = max((number for number, layer in self.layers.items() if layer.window is None), default=last)
        if not self.is_head_major:
            finite = [self._are_finite(self.layers[layer], pieces) for layer in {last, last_whole}]
            return [all(of_piece) for of_piece in zip(*finite, strict=True)]
        heads = [
            torch.stack([self._heads(layer, *piece).isfinite().all() for layer in {last, last_whole}]).all()
            for piece in pieces
        ]
        return [bool(is_finite) for is_finite in torch.stack(heads).tolist()]

    def _are_finite(self, layer: CachedLayer, pieces: Sequence[tuple[int, int, int]]) -> list[bool]:
        """The same for one layer, whose columns are read all at once."""
        keys = layer.stored[0]
        slots, row_length = keys.shape[:2]
        kept = [(slot, max(first, last - layer.kept), last) for slot, first, last in pieces]
        rows = [slot * row_length + position % layer.kept for slot, *span in kept for position in range(*span)]
        of_rows = keys.view(slots * row_length, -1)[to_device(torch.tensor(rows), keys.device)]
        tokens = iter(of_rows.isfinite().all(-1).tolist())
        return [all(list(islice(tokens, last - first))) for _, first, last in kept]

    def _heads(self, layer: int, slot: int, first: int, last: int) -> Tensor:
        """Keys where slots are filled head after head: [kv_heads, last - first, head_dim]."""
        keys = self.layers[layer].stored[0]
        slots, row_length, kv_heads, head_dim = keys.shape
        heads = keys.view(slots, kv_heads, row_length, head_dim)[slot]
        if self.keys_in_pairs:
            blocks = heads.view(kv_heads, -1, head_dim // 2, PAIRED_KEYS, 2)
            heads = blocks.transpose(2, 3).reshape(kv_heads, row_length, head_dim)
        return heads[:, first:last]

    @property
    def bytes(self) -> int:
        return sum(layer.bytes for layer in self.layers.values())

    @property
    def retention(self) -> Retention:
        """How much of a text is still there after it has been computed."""
        rings = [(layer.kept, layer.window) for layer in self.layers.values() if layer.window is not None]
        if not rings:
            return Retention()
        return Retention(min(kept for kept, _ in rings), min(kept - window + 1 for kept, window in rings))


def _zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that take memory as they are written: on a CPU, torch's own are all written at the start."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(*shape)
