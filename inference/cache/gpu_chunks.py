"""Keys and values in chunks, as in `inference.cache.chunks`, on a GPU: memory follows the tokens that are used.

A slot has addresses for the whole context, and memory for what it has held so far (see `reserved`). Kernels read a slot
up to its own last token, so what lies behind it need not be cleared.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from inference.cache.chunks import KEYS, VALUES, AcrossLayers, Layers
from inference.cache.reserved import memory_of
from inference.cache.sizes import CHUNK, chunk_count, row_length
from inference.cache.storage import Span, by_span
from inference.transfer import to_device


class GpuChunks(AcrossLayers):
    """Chunks on a GPU: [slots, chunks, layers, 2, CHUNK, kv_heads, head_dim]."""

    shares_beginnings = False

    def __init__(self, slots: int, context: int, layers: Layers, device: torch.device) -> None:
        chunk = (layers.count, 2, CHUNK, layers.kv_heads, layers.head_dim)
        chunks = chunk_count(row_length(context))
        self._chunk_bytes = math.prod(chunk) * layers.dtype.itemsize
        self._slot_bytes = chunks * self._chunk_bytes
        self._memory = memory_of(slots * self._slot_bytes, device)
        numbers = self._memory.tensor()[: slots * self._slot_bytes].view(layers.dtype)
        super().__init__(numbers.view(slots, chunks, *chunk))

    def layer(self, number: int) -> tuple[Tensor, Tensor]:
        """A layer's keys and values, [slots, chunks, CHUNK, kv_heads, head_dim] each."""
        return self.numbers[:, :, number, KEYS], self.numbers[:, :, number, VALUES]

    def provide(self) -> None:
        """Do nothing: a GPU has its memory at hand."""

    def reserve(self, slot: int, first: int, last: int) -> None:
        begin = slot * self._slot_bytes
        self._memory.back(begin, begin + chunk_count(last) * self._chunk_bytes)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy whole chunks, with what the last one holds behind `length`."""
        self.reserve(target, 0, length)
        chunks = chunk_count(length)
        self.numbers[target, :chunks] = self.numbers[source, :chunks]

    def are_finite(self, spans: Sequence[Span]) -> list[bool]:
        if not spans:
            return []
        places = [(slot, position) for slot, first, last in spans for position in range(first, last)]
        slots, positions = to_device(torch.tensor(places).T.contiguous(), self.numbers.device)
        keys = self.layer(-1)[KEYS][slots, positions // CHUNK, positions % CHUNK]  # [tokens, kv_heads, head_dim]
        return by_span(keys.isfinite().all(-1).all(-1), spans)

    @property
    def backed_bytes(self) -> int:
        """What it takes by now."""
        return self._memory.backed_bytes
