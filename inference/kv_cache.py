"""The keys and values of every token in flight: one row per slot, one column per position.

The tensors never move and never grow, and a slot's row is simply written over by its next request. Which request
holds which slot is the scheduler's business; this file owns the tensors alone.
"""

import torch
from torch import Tensor

BLOCK = 32
"""Kernels may read, though never use, the columns up to the next multiple of this."""


class KVCache:
    """Keys and values, a pair of tensors [slots, kv_heads, columns, head_dim] per layer.

    `columns` is the context and at least one more, in whole blocks. A layer's tensors are made when it is first asked
    for, in the shape that is asked for: any model's heads will do.
    """

    def __init__(self, slots: int, context: int) -> None:
        self.slots = slots
        self.context = context
        self.columns = (context // BLOCK + 1) * BLOCK
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def layer(
        self, number: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer; the first call makes them, empty."""
        if number not in self._layers:
            shape = (self.slots, kv_heads, self.columns, head_dim)
            keys, values = (torch.zeros(shape, dtype=dtype, device=device) for _ in "kv")
            self._layers[number] = (keys, values)
        return self._layers[number]

    def write(self, layer: int, keys: Tensor, values: Tensor, slots: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Store `keys` and `values` [1, kv_heads, tokens, head_dim] at `slots`, `columns` [tokens].

        Returns:
            All the layer's keys and values.
        """
        _, kv_heads, _, head_dim = keys.shape
        cached_keys, cached_values = self.layer(layer, kv_heads, head_dim, keys.dtype, keys.device)
        cached_keys[slots, :, columns] = keys[0].transpose(0, 1)
        cached_values[slots, :, columns] = values[0].transpose(0, 1)
        return cached_keys, cached_values

    @property
    def bytes(self) -> int:
        return sum(part.numel() * part.element_size() for layer in self._layers.values() for part in layer)
