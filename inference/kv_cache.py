"""The keys and values of every token in flight: one row per slot, one column per position.

The tensors never move and never grow, and a slot's row is simply written over by its next request. Which request
holds which slot is the scheduler's business; this file owns the tensors alone.
"""

import torch
from torch import Tensor


class KVCache:
    """Keys and values, a pair of tensors [slots, kv_heads, context, head_dim] per layer.

    A layer's tensors are made at its first write, in the shape that comes, so any model's heads will do.
    """

    def __init__(self, slots: int, context: int) -> None:
        self.slots = slots
        self.context = context
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def write(self, layer: int, keys: Tensor, values: Tensor, slots: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Store `keys` and `values` [1, kv_heads, tokens, head_dim] at `slots`, `columns` [tokens].

        Returns:
            All the layer's keys and values.
        """
        if layer not in self._layers:
            self._layers[layer] = (self._empty(keys), self._empty(values))
        cached_keys, cached_values = self._layers[layer]
        cached_keys[slots, :, columns] = keys[0].transpose(0, 1)
        cached_values[slots, :, columns] = values[0].transpose(0, 1)
        return cached_keys, cached_values

    @property
    def bytes(self) -> int:
        return sum(part.numel() * part.element_size() for layer in self._layers.values() for part in layer)

    def _empty(self, like: Tensor) -> Tensor:
        _, kv_heads, _, head_dim = like.shape
        return torch.zeros(self.slots, kv_heads, self.context, head_dim, dtype=like.dtype, device=like.device)
