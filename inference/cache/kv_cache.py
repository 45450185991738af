"""The keys and values of every token in flight: one row per slot, one column per position.

The tensors never move and never grow, and a slot's row is simply written over by its next request. Which request
holds which slot is the scheduler's business; this file owns the tensors alone.
"""

import torch
from torch import Tensor

BLOCK = 32
"""Kernels may read, though never use, the columns up to the next multiple of this."""


class KVCache:
    """Keys and values of every layer, in tensors [slots, columns, kv_heads, head_dim].

    `columns` is the context and at least one more, in whole blocks. A layer's tensors are made when it is first asked
    for, in the shape that is asked for: any model's heads will do. They are the halves of one tensor, for one write.
    """

    def __init__(self, slots: int, context: int) -> None:
        self.slots = slots
        self.context = context
        self.columns = (context // BLOCK + 1) * BLOCK
        self._layers: dict[int, Tensor] = {}

    def layer(
        self, number: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, as attention reads them: [slots, kv_heads, columns, head_dim].

        The first call makes them, empty.
        """
        if number not in self._layers:
            shape = (2, self.slots, self.columns, kv_heads, head_dim)
            self._layers[number] = torch.zeros(shape, dtype=dtype, device=device)
        keys, values = self._layers[number].transpose(2, 3)
        return keys, values

    def places(self, slots: Tensor, columns: Tensor) -> Tensor:
        """Where the keys, then the values, of `slots`, `columns` [tokens] lie in every layer: [2 * tokens]."""
        keys = slots * self.columns + columns
        return torch.cat([keys, keys + self.slots * self.columns])

    def write(self, layer: int, keys: Tensor, values: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Store `keys` and `values` [tokens, kv_heads, head_dim] at their `places`.

        Returns:
            All the layer's keys and values.
        """
        _, kv_heads, head_dim = keys.shape
        cached = self.layer(layer, kv_heads, head_dim, keys.dtype, keys.device)
        self._layers[layer].view(-1, kv_heads, head_dim).index_copy_(0, places, torch.cat([keys, values]))
        return cached

    @property
    def bytes(self) -> int:
        return sum(layer.numel() * layer.element_size() for layer in self._layers.values())
