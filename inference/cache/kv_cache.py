"""The keys and values of every token in flight: one row per slot, one column per position.

The tensors never move and never grow, and a slot's row is simply written over by its next request. Which request
holds which slot is the scheduler's business; this file owns the tensors alone.

Attention reads a slot up to the longest of its neighbours, and hides what lies behind the slot's own last token by
weights of zero. Zero times NaN is NaN, so what an earlier request has left there must not stay: `take` notices when a
request begins before the end of another's text, and the positions in between are cleared at the next write.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BLOCK = 32
"""Kernels may read, though never use, the positions up to the next multiple of this."""


@dataclass(frozen=True, slots=True)
class Stale:
    """Columns `first` to `last` of a slot, the latter not included, that belong to no running request."""

    slot: int
    first: int
    last: int


class KVCache:
    """Keys and values of every layer, in tensors [slots, row_length, kv_heads, head_dim].

    `row_length` is the context plus at least one, in whole blocks. A layer's tensors are made when it is first asked
    for, in the shape that is asked for: any model's heads will do. Where values are as wide as keys, the two are halves
    of one tensor, for one write.
    """

    def __init__(self, slots: int, context: int) -> None:
        self.slots = slots
        self.context = context
        self.row_length = (context // BLOCK + 1) * BLOCK
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._both: dict[int, Tensor] = {}  # keys and values, where they are of one width
        self.is_head_major = False
        """Set by a decoder that fills a slot head after head, each in blocks of BLOCK positions."""
        self._written = [0] * slots  # positions that have been written, from the first on

    def layer(
        self,
        number: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        value_dim: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, as attention reads them: [slots, kv_heads, columns, head_dim].

        The first call makes them, empty. `value_dim` is the values' width where it is not the keys'.
        """
        if number not in self._layers:
            rows = (self.slots, self.row_length, kv_heads)
            if value_dim is None or value_dim == head_dim:
                both = self._both[number] = _zeros((2, *rows, head_dim), dtype, device)
                self._layers[number] = both[0], both[1]
            else:
                keys = _zeros((*rows, head_dim), dtype, device)
                self._layers[number] = keys, _zeros((*rows, value_dim), dtype, device)
        keys, values = self._layers[number]
        return keys.transpose(1, 2), values.transpose(1, 2)

    def take(self, slot: int, first: int, last: int) -> Stale | None:
        """Note that positions `first` to `last` of a slot are going to be written.

        Returns:
            What another request has left behind them, if any.
        """
        written, self._written[slot] = self._written[slot], last
        return Stale(slot, first, written) if first < written else None

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of a slot, in every layer; what lies behind them in `target` stays."""
        for tensors in self._layers.values():
            for tensor in tensors:
                if self.is_head_major:
                    slots, row_length, kv_heads, head_dim = tensor.shape
                    tensor, ends = tensor.view(slots, kv_heads, row_length, head_dim), -(-length // BLOCK) * BLOCK
                    tensor[target, :, :ends] = tensor[source, :, :ends]
                else:
                    tensor[target, :length] = tensor[source, :length]
        self._written[target] = max(self._written[target], length)

    def slot_mapping(self, slots: Tensor, positions: Tensor) -> Tensor:
        """Where the keys, then the values, of `slots`, `positions` [tokens] lie in every layer: [2 * tokens]."""
        keys = slots * self.row_length + positions
        return torch.cat([keys, keys + self.slots * self.row_length])

    def write(
        self, layer: int, keys: Tensor, values: Tensor, slot_mapping: Tensor, stale: Sequence[Stale] = ()
    ) -> tuple[Tensor, Tensor]:
        """Clear what is `stale`, and store `keys` and `values` [tokens, kv_heads, head_dim] as `slot_mapping` says.

        Returns:
            All the layer's keys and values.
        """
        tokens, kv_heads, head_dim = keys.shape
        cached = self.layer(layer, kv_heads, head_dim, keys.dtype, keys.device, values.shape[-1])
        for left in stale:
            for tensor in self._layers[layer]:
                tensor[left.slot, left.first : left.last] = 0
        if layer in self._both:
            self._both[layer].view(-1, kv_heads, head_dim).index_copy_(0, slot_mapping, torch.cat([keys, values]))
        else:
            for tensor, new in zip(self._layers[layer], (keys, values), strict=True):
                tensor.view(-1, kv_heads, new.shape[-1]).index_copy_(0, slot_mapping[:tokens], new)
        return cached

    def are_finite(self, pieces: Sequence[tuple[int, int, int]]) -> list[bool]:
        """Whether the last layer's keys are numbers, for each piece: positions `first` to `last` of `slot`.

        Whatever becomes NaN or infinite on its way through the layers is so there. On a GPU this waits for it.
        """
        if not pieces or not self._layers:
            return [True] * len(pieces)
        keys = self._layers[max(self._layers)][0]
        if self.is_head_major:
            slots, row_length, kv_heads, head_dim = keys.shape
            keys = keys.view(slots, kv_heads, row_length, head_dim).transpose(1, 2)
        finite = [keys[slot, first:last].isfinite().all() for slot, first, last in pieces]
        return [bool(is_finite) for is_finite in torch.stack(finite).tolist()]

    @property
    def bytes(self) -> int:
        return sum(part.numel() * part.element_size() for layer in self._layers.values() for part in layer)


def _zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that take memory as they are written: on a CPU, torch's own are all written at the start."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(*shape)
