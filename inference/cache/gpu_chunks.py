"""Keys and values in chunks, as in `inference.cache.chunks`, on a GPU: memory follows the tokens that are used.

A slot has addresses for the whole context, and memory for what it has held so far (see `reserved`). Kernels read a slot
up to its own last token, so what lies behind it need not be cleared.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from inference.cache.reserved import memory_of
from inference.cache.sizes import CHUNK, row_length
from inference.cache.storage import Span
from inference.scheduling.cache_manager import Retention
from inference.transfer import to_device

KEYS, VALUES = 0, 1


class GpuChunks:
    """All layers of a model whose layers are alike: [slots, chunks, layers, 2, CHUNK, kv_heads, head_dim]."""

    def __init__(
        self,
        slots: int,
        context: int,
        layers: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        chunks = row_length(context) // CHUNK
        self._chunk_bytes = layers * 2 * CHUNK * kv_heads * head_dim * dtype.itemsize
        self._slot_bytes = chunks * self._chunk_bytes
        self._memory = memory_of(slots * self._slot_bytes, device)
        numbers = self._memory.tensor()[: slots * self._slot_bytes].view(dtype)
        self._numbers = numbers.view(slots, chunks, layers, 2, CHUNK, kv_heads, head_dim)

    def layer(self, number: int) -> tuple[Tensor, Tensor]:
        """A layer's keys and values, [slots, chunks, CHUNK, kv_heads, head_dim] each."""
        return self._numbers[:, :, number, KEYS], self._numbers[:, :, number, VALUES]

    def reserve(self, slot: int, length: int) -> None:
        first = slot * self._slot_bytes
        self._memory.back(first, first + -(-length // CHUNK) * self._chunk_bytes)

    def copy(self, source: int, target: int, length: int, written: Sequence[int]) -> None:
        """Copy whole chunks; what they hold behind `length` is not read."""
        chunks = -(-length // CHUNK)
        self._numbers[target, :chunks] = self._numbers[source, :chunks]

    def are_finite(self, spans: Sequence[Span]) -> list[bool]:
        if not spans:
            return []
        places = [(slot, position) for slot, first, last in spans for position in range(first, last)]
        slots, positions = to_device(torch.tensor(places).T.contiguous(), self._numbers.device)
        keys = self.layer(-1)[KEYS][slots, positions // CHUNK, positions % CHUNK]  # [tokens, kv_heads, head_dim]
        tokens = iter(keys.isfinite().all(-1).all(-1).tolist())
        return [all(list(itertools.islice(tokens, last - first))) for _, first, last in spans]

    @property
    def bytes(self) -> int:
        return self._numbers.nbytes

    @property
    def backed_bytes(self) -> int:
        """What it takes by now."""
        return self._memory.backed_bytes

    @property
    def retention(self) -> Retention:
        """All of every text: no layer forgets."""
        return Retention()
