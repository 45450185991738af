"""Keys and values in chunks: some tokens of a text, in all layers, lie together.

Memory comes from the system in pages of 2 MiB, as it is written, and with small pages every step would be slower. So
what a text takes must lie together: in rows for each layer and head, a single token would take a page of each of them.
In chunks, memory follows the tokens that are used, up to the end of a page, and texts that begin alike can share it.

How a head's keys and values lie within a chunk is the decoder's business: see decoders/native/attention.hpp.
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.cache.chunk_table import ChunkTable
from inference.cache.sizes import CHUNK, chunk_count, row_length
from inference.cache.storage import Span, zeros
from inference.scheduling.cache_manager import Retention
from inference.weights.memory import free_memory
from inference.weights.memory_ahead import provide_in_background

PAGE = 2 * 2**20
"""Bytes that the system gives at once, where it has large pages."""
PAIRED_KEYS = 16
KEYS, VALUES = 0, 1
PROVIDED = 64 * 2**20
"""Bytes that have memory before the first text comes: about as much as sixteen prompts of 1,000 tokens that begin alike
take at once, with a model of 135 million weights."""


@dataclass(frozen=True, slots=True)
class Layers:
    """A model's layers, all of one kind."""

    count: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype


class AcrossLayers:
    """The part that the storages in chunks, on a CPU and on a GPU, have in common.

    `numbers` are [slots, chunks, layers, 2, …] or [chunks, layers, 2, …]: keys, then values, as the decoder has them.
    """

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    @property
    def bytes(self) -> int:
        return self.numbers.nbytes

    @property
    def retention(self) -> Retention:
        """All of every text: no layer forgets."""
        return Retention()


class Chunks(AcrossLayers):
    """Chunks on a CPU, [chunks, layers, 2, kv_heads, CHUNK, head_dim]. A table has those of each slot.

    Args:
        are_paired: keys lie in blocks [head_dim / 2][PAIRED_KEYS][2], values in pairs [head_dim][2] of positions. Then
            attention reads values that it multiplies with zero, so these must be numbers.
    """

    shares_beginnings = True

    def __init__(self, slots: int, context: int, layers: Layers, are_paired: bool) -> None:
        self.table = ChunkTable(slots, chunk_count(row_length(context)))
        shape = (slots * self.table.per_slot, layers.count, 2, layers.kv_heads, CHUNK, layers.head_dim)
        super().__init__(_from_a_page_on(shape, layers.dtype))
        self.are_paired = are_paired
        self._written = [0] * len(self.numbers)  # how many positions of each chunk have been written, from the first on

    def address(self, layer: int, kind: int) -> int:
        """Where a layer's keys or values begin in the first chunk."""
        return self.numbers[0, layer, kind].data_ptr()

    def provide(self) -> threading.Thread:
        """Begin with the chunks that the table gives out first; if memory is short, leave half of it to others."""
        memory = self.numbers.view(-1).view(torch.uint8).numpy()
        free = free_memory(self.numbers.device)
        return provide_in_background(memory[: PROVIDED if free is None else min(PROVIDED, free // 2)])

    def reserve(self, slot: int, first: int, last: int) -> None:
        """Give a slot chunks of its own for these positions, and take away those behind them."""
        self.table.truncate(slot, chunk_count(last))
        for start, number in self._chunks(slot, first, last):
            own = number
            if self.table.is_shared(slot, start // CHUNK):
                own = self.table.replace(slot, start // CHUNK)
                if start < first:
                    self._copy_chunk(number, own)
            self._prepare(own, max(first - start, 0), last - start)
        while (count := self.table.count(slot)) < chunk_count(last):
            self._prepare(self.table.append(slot), 0, last - count * CHUNK)

    def copy(self, source: int, target: int, length: int) -> None:
        """Share the chunks that the beginning fills, and copy the one that it ends in."""
        end = length // CHUNK * CHUNK
        self.table.share(source, target, end // CHUNK)
        for _, number in self._chunks(source, end, length):
            own = self.table.append(target)
            self._copy_chunk(number, own)
            self._prepare(own, length - end, length - end)

    def are_finite(self, spans: Sequence[Span]) -> list[bool]:
        return [bool(self._keys(*span).isfinite().all()) for span in spans]

    def _chunks(self, slot: int, first: int, last: int) -> list[tuple[int, int]]:
        """The first position of each chunk that a slot has for these positions, and the chunk's number."""
        places = range(first // CHUNK, min(chunk_count(last), self.table.count(slot)))
        return [(place * CHUNK, self.table.chunk(slot, place)) for place in places]

    def _copy_chunk(self, source: int, target: int) -> None:
        self.numbers[target] = self.numbers[source]
        self._written[target] = self._written[source]

    def _prepare(self, number: int, first: int, last: int) -> None:
        """Clear the values that another text has left in a chunk from `first` on, before it is written up to `last`."""
        written = self._written[number]
        if self.are_paired and first < written:
            # If a pair begins before, its other half is written by the next step.
            self.numbers[number, :, VALUES, :, first + first % 2 : written + written % 2] = 0
        self._written[number] = min(last, CHUNK)

    def _keys(self, slot: int, first: int, last: int) -> Tensor:
        """The last layer's keys: [kv_heads, last - first, head_dim]."""
        keys = self.numbers[[number for _, number in self._chunks(slot, first, last)], -1, KEYS]
        chunks, kv_heads, _, head_dim = keys.shape  # [chunks, kv_heads, CHUNK, head_dim]
        if self.are_paired:
            blocks = keys.reshape(chunks, kv_heads, -1, head_dim // 2, PAIRED_KEYS, 2)
            keys = blocks.transpose(-3, -2).reshape(chunks, kv_heads, CHUNK, head_dim)
        start = first // CHUNK * CHUNK
        return keys.transpose(0, 1).reshape(kv_heads, chunks * CHUNK, head_dim)[:, first - start : last - start]


def _from_a_page_on(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros that begin with a page, so that the first chunk takes no part of another one."""
    size, page = math.prod(shape), PAGE // dtype.itemsize
    numbers = zeros((size + page,), dtype, torch.device("cpu"))
    first = -numbers.data_ptr() % PAGE // dtype.itemsize
    return numbers[first : first + size].view(*shape)
