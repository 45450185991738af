"""Keys and values in chunks: some tokens of a slot, in all layers, lie together.

Memory comes from the system in pages of 2 MiB, as it is written, and with small pages every step would be slower. So
what a text takes must lie together: in rows for each layer and head, a single token would take a page of each of them.
In chunks, memory follows the tokens that are used, up to the end of a page, and a copied beginning is one piece.

How a head's keys and values lie within a chunk is the decoder's business: see decoders/native/attention.hpp.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.cache.sizes import CHUNK, chunk_count, row_length
from inference.cache.storage import Span, Stale, zeros
from inference.scheduling.cache_manager import Retention

PAGE = 2 * 2**20
"""Bytes that the system gives at once, where it has large pages."""
PAIRED_KEYS = 16
KEYS, VALUES = 0, 1


@dataclass(frozen=True, slots=True)
class Layers:
    """A model's layers, all of one kind."""

    count: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype


class AcrossLayers:
    """What a storage in chunks does wherever its memory is.

    `numbers` are [slots, chunks, layers, 2, …]: keys, then values, as the decoder has them.
    """

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    def copy(self, source: int, target: int, length: int, written: Sequence[int]) -> None:
        """Copy whole chunks, with what the last one holds behind `length`."""
        chunks = chunk_count(length)
        self.numbers[target, :chunks] = self.numbers[source, :chunks]

    @property
    def bytes(self) -> int:
        return self.numbers.nbytes

    @property
    def retention(self) -> Retention:
        """All of every text: no layer forgets."""
        return Retention()


class Chunks(AcrossLayers):
    """Chunks on a CPU.

    Args:
        are_paired: keys lie in blocks [head_dim / 2][PAIRED_KEYS][2], values in pairs [head_dim][2] of positions. Then
            attention reads values that it multiplies with zero, so these must be numbers.
    """

    def __init__(self, slots: int, context: int, layers: Layers, are_paired: bool) -> None:
        shape = (chunk_count(row_length(context)), layers.count, 2, layers.kv_heads, CHUNK, layers.head_dim)
        super().__init__(_slots_of_pages(slots, shape, layers.dtype))
        self.are_paired = are_paired

    def address(self, layer: int, kind: int) -> int:
        """Where a layer's keys or values begin in the first slot's first chunk."""
        return self.numbers[0, 0, layer, kind].data_ptr()

    def clear(self, stale: Iterable[Stale]) -> None:
        """Clear values that no running request wrote, and that attention multiplies with weights of zero."""
        if not self.are_paired:
            return
        for left in stale:
            # If a pair begins before, its other half is written by the next step.
            first, last = left.first + left.first % 2, left.last + left.last % 2
            for chunk in range(first // CHUNK, chunk_count(last)):
                start = chunk * CHUNK
                self.numbers[left.slot, chunk, :, VALUES, :, max(first - start, 0) : last - start] = 0

    def reserve(self, slot: int, length: int) -> None:
        """Memory comes when it is written."""

    def copy(self, source: int, target: int, length: int, written: Sequence[int]) -> None:
        """Copy whole chunks, then clear the rest of the last one."""
        super().copy(source, target, length, written)
        copied = min(written[source], chunk_count(length) * CHUNK)
        self.clear([Stale(target, length, max(written[target], copied))])

    def are_finite(self, spans: Sequence[Span]) -> list[bool]:
        return [bool(self._keys(*span).isfinite().all()) for span in spans]

    def _keys(self, slot: int, first: int, last: int) -> Tensor:
        """The last layer's keys: [kv_heads, last - first, head_dim]."""
        chunk, end = first // CHUNK, chunk_count(last)
        keys = self.numbers[slot, chunk:end, -1, KEYS]  # [chunks, kv_heads, CHUNK, head_dim]
        chunks, kv_heads, _, head_dim = keys.shape
        if self.are_paired:
            blocks = keys.reshape(chunks, kv_heads, -1, head_dim // 2, PAIRED_KEYS, 2)
            keys = blocks.transpose(-3, -2).reshape(chunks, kv_heads, CHUNK, head_dim)
        start = chunk * CHUNK
        return keys.transpose(0, 1).reshape(kv_heads, -1, head_dim)[:, first - start : last - start]


def _slots_of_pages(slots: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros [slots, *shape]. Each slot begins with a page, so that its first tokens take no part of two."""
    size, page = math.prod(shape), PAGE // dtype.itemsize
    stride = -(-size // page) * page
    numbers = zeros((slots * stride + page,), dtype, torch.device("cpu"))
    first = -numbers.data_ptr() % PAGE // dtype.itemsize
    return numbers[first : first + slots * stride].view(slots, stride)[:, :size].view(slots, *shape)
