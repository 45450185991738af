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
        """All keys and values of a layer; the first call makes them, empty."""
        if number not in self._layers:
            shape = (2, self.slots, kv_heads, self.columns, head_dim)
            self._layers[number] = torch.zeros(shape, dtype=dtype, device=device)
        keys, values = self._layers[number]
        return keys, values

    def places(self, slots: Tensor, columns: Tensor, kv_heads: int) -> Tensor:
        """Where the keys and values of `slots`, `columns` [tokens] lie in a layer: [2 * tokens * kv_heads].

        One index for each vector: writing with it is several times faster than with slots and columns.
        """
        halves, heads = (torch.arange(count, device=slots.device) for count in (2, kv_heads))
        rows = (halves[:, None, None] * self.slots + slots[:, None]) * kv_heads + heads  # [2, tokens, kv_heads]
        return (rows * self.columns + columns[:, None]).flatten()

    def write(self, layer: int, keys: Tensor, values: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Store `keys` and `values` [tokens, kv_heads, head_dim] at their `places`.

        Returns:
            All the layer's keys and values.
        """
        _, kv_heads, head_dim = keys.shape
        cached = self.layer(layer, kv_heads, head_dim, keys.dtype, keys.device)
        vectors = self._layers[layer].view(-1, head_dim)
        vectors.index_copy_(0, places, torch.cat([keys, values]).view(-1, head_dim))
        return cached

    @property
    def bytes(self) -> int:
        return sum(layer.numel() * layer.element_size() for layer in self._layers.values())
