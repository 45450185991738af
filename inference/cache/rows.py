"""Keys and values in tensors for each layer: one row per slot, one column per position.

The tensors never move and never grow, and a slot's row is simply written over by its next request.

A layer whose tokens look back only so far, over a sliding window, forgets what no token may see any more: its row is a
ring, a little longer than the window, in which position p lies in column p modulo the ring's length. A layer that
sees everything is a ring that never comes round.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.cache.sizes import column_count, kept_positions, row_length
from inference.cache.storage import Span, by_span, zeros
from inference.scheduling.cache_manager import Retention
from inference.transfer import to_device


@dataclass(frozen=True, slots=True)
class CachedLayer:
    """One layer's tensors [slots, columns, kv_heads, head_dim]; a ring has one more column, which is never read."""

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

    def clear(self, slot: int, first: int, last: int) -> None:
        if first >= last:
            return
        columns = self.columns(first, last)
        for tensor in self.stored:
            tensor[slot, columns] = 0

    def write(self, keys: Tensor, values: Tensor, slot_mapping: Tensor) -> None:
        """Store `keys` and `values` [tokens, kv_heads, head_dim] where `slot_mapping` [2 * tokens] says."""
        tokens, kv_heads, head_dim = keys.shape
        if self.both is not None:
            self.both.view(-1, kv_heads, head_dim).index_copy_(0, slot_mapping, torch.cat([keys, values]))
            return
        for tensor, new in zip(self.stored, (keys, values), strict=True):
            tensor.view(-1, kv_heads, new.shape[-1]).index_copy_(0, slot_mapping[:tokens], new)

    def copy(self, source: int, target: int, columns: int) -> None:
        for tensor in self.stored:
            tensor[target, :columns] = tensor[source, :columns]

    def are_finite(self, spans: Sequence[Span]) -> list[bool]:
        """Whether the keys are numbers, for each span; all of them are read at once."""
        keys = self.stored[0]
        slots, row_length = keys.shape[:2]
        kept = [(slot, max(first, last - self.kept), last) for slot, first, last in spans]
        rows = [slot * row_length + position % self.kept for slot, *span in kept for position in range(*span)]
        of_rows = keys.view(slots * row_length, -1)[to_device(torch.tensor(rows), keys.device)]
        return by_span(of_rows.isfinite().all(-1), kept)


class Rows:
    """The layers. Each is made at its first use, in the shape that the model's heads need."""

    shares_beginnings, appends = False, True
    state_bytes = 0

    def __init__(self, slots: int, context: int, slack: int) -> None:
        self.layers: dict[int, CachedLayer] = {}
        self._slots = slots
        self._context = context
        self._slack = slack
        self._written = [0] * slots  # how many positions of each slot have been written, from the first on

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
            kept = kept_positions(self._context, window, self._slack)
            is_ring = kept < row_length(self._context)
            rows = (self._slots, column_count(self._context, window, self._slack), kv_heads)
            both = None
            if value_dim is None or value_dim == head_dim:
                both = zeros((2, *rows, head_dim), dtype, device)
                stored = both[0], both[1]
            else:
                stored = zeros((*rows, head_dim), dtype, device), zeros((*rows, value_dim), dtype, device)
            self.layers[number] = CachedLayer(stored, both, kept, window if is_ring else None)
        return self.layers[number]

    def slot_mapping(self, slots: Tensor, columns: Tensor, row_length: int) -> Tensor:
        """Where the keys, then the values, of `slots`, `columns` [tokens] lie in a layer: [2 * tokens]."""
        keys = slots * row_length + columns
        return torch.cat([keys, keys + self._slots * row_length])

    def provide(self) -> None:
        """Do nothing: a slot's first token takes memory for all of its rows, which is too much to be provided."""

    def reserve(self, slot: int, first: int, last: int) -> None:
        """Clear what an earlier text has left from `first` on; memory comes when it is written."""
        if first < self._written[slot]:
            for layer in self.layers.values():
                layer.clear(slot, first, self._written[slot])
        self._written[slot] = last

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the columns of the beginning: of a ring all of them, and clear what follows the beginning."""
        written, of_source = self._written[target], self._written[source]
        self._written[target] = max(written, of_source)  # should the copy fail
        for layer in self.layers.values():
            is_ring = layer.window is not None
            layer.copy(source, target, columns=layer.kept if is_ring else length)
            layer.clear(target, length, of_source if is_ring else written)
        self._written[target] = length

    def are_finite(self, spans: Sequence[Span]) -> list[bool]:
        if not spans or not self.layers:
            return [True] * len(spans)
        last = max(self.layers)
        last_whole = max((number for number, layer in self.layers.items() if layer.window is None), default=last)
        finite = [self.layers[number].are_finite(spans) for number in {last, last_whole}]
        return [all(of_span) for of_span in zip(*finite, strict=True)]

    @property
    def bytes(self) -> int:
        return sum(layer.bytes for layer in self.layers.values())

    @property
    def retention(self) -> Retention:
        rings = [(layer.kept, layer.window) for layer in self.layers.values() if layer.window is not None]
        if not rings:
            return Retention()
        return Retention(min(kept for kept, _ in rings), min(kept - window + 1 for kept, window in rings))
