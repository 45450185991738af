"""Keys and values in pages: some tokens of a text, in all layers, lie together.

Memory comes from the system in large pages of 2 MiB, as it is written, and with small ones every step would be slower.
So what a text takes must lie together: in rows for each layer and head, a single token would take a large page of each
of them. In pages of our own, memory follows the tokens that are used, up to the end of a large page, and texts that
begin alike can share it.

How a head's keys and values lie within a page is the decoder's business: see decoders/native/attention.hpp.
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.cache.page_table import PageTable
from inference.cache.sizes import PAGE_TOKENS, page_count, row_length
from inference.cache.storage import Span, zeros
from inference.scheduling.cache_manager import Retention
from inference.weights.memory import free_memory
from inference.weights.memory_ahead import LARGE_PAGE, provide_in_background

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


class BasePages:
    """What the storages in pages share, on a CPU and on a GPU.

    `numbers` are [slots, pages, layers, 2, …] or [pages, layers, 2, …]: keys, then values, as the decoder has them.
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


class Pages(BasePages):
    """Pages on a CPU, [pages, layers, 2, kv_heads, PAGE_TOKENS, head_dim]. A table has those of each slot.

    Args:
        are_paired: keys lie in blocks [head_dim / 2][PAIRED_KEYS][2], values in pairs [head_dim][2] of positions. Then
            attention reads values that it multiplies with zero, so these must be numbers.
    """

    shares_beginnings, appends = True, True
    state_bytes = 0

    def __init__(self, slots: int, context: int, layers: Layers, are_paired: bool) -> None:
        self.table = PageTable(slots, page_count(row_length(context)))
        shape = (slots * self.table.per_slot, layers.count, 2, layers.kv_heads, PAGE_TOKENS, layers.head_dim)
        super().__init__(_from_a_large_page_on(shape, layers.dtype))
        self.are_paired = are_paired
        self._written = [0] * len(self.numbers)  # how many positions of each page have been written, from the first on

    def address(self, layer: int, kind: int) -> int:
        """Where a layer's keys or values begin in the first page."""
        return self.numbers[0, layer, kind].data_ptr()

    def provide(self) -> threading.Thread:
        """Begin with the pages that the table gives out first; if memory is short, leave half of it to others."""
        memory = self.numbers.view(-1).view(torch.uint8).numpy()
        free = free_memory(self.numbers.device)
        return provide_in_background(memory[: PROVIDED if free is None else min(PROVIDED, free // 2)])

    def reserve(self, slot: int, first: int, last: int) -> None:
        """Give a slot pages of its own for these positions, and take away those behind them."""
        self.table.truncate(slot, page_count(last))
        for start, number in self._pages(slot, first, last):
            own = number
            if self.table.is_shared(slot, start // PAGE_TOKENS):
                own = self.table.replace(slot, start // PAGE_TOKENS)
                if start < first:
                    self._copy_page(number, own)
            self._prepare(own, max(first - start, 0), last - start)
        while (count := self.table.count(slot)) < page_count(last):
            self._prepare(self.table.append(slot), 0, last - count * PAGE_TOKENS)

    def copy(self, source: int, target: int, length: int) -> None:
        """Share the pages that the beginning fills, and copy the one that it ends in."""
        end = length // PAGE_TOKENS * PAGE_TOKENS
        self.table.share(source, target, end // PAGE_TOKENS)
        for _, number in self._pages(source, end, length):
            own = self.table.append(target)
            self._copy_page(number, own)
            self._prepare(own, length - end, length - end)

    def are_finite(self, spans: Sequence[Span]) -> list[bool]:
        return [bool(self._keys(*span).isfinite().all()) for span in spans]

    def _pages(self, slot: int, first: int, last: int) -> list[tuple[int, int]]:
        """The first position of each page that a slot has for these positions, and the page's number."""
        places = range(first // PAGE_TOKENS, min(page_count(last), self.table.count(slot)))
        return [(place * PAGE_TOKENS, self.table.page(slot, place)) for place in places]

    def _copy_page(self, source: int, target: int) -> None:
        self.numbers[target] = self.numbers[source]
        self._written[target] = self._written[source]

    def _prepare(self, number: int, first: int, last: int) -> None:
        """Clear the values that another text has left in a page from `first` on, before it is written up to `last`."""
        written = self._written[number]
        if self.are_paired and first < written:
            # If a pair begins before, its other half is written by the next step.
            self.numbers[number, :, VALUES, :, first + first % 2 : written + written % 2] = 0
        self._written[number] = min(last, PAGE_TOKENS)

    def _keys(self, slot: int, first: int, last: int) -> Tensor:
        """The last layer's keys: [kv_heads, last - first, head_dim]."""
        keys = self.numbers[[number for _, number in self._pages(slot, first, last)], -1, KEYS]
        pages, kv_heads, _, head_dim = keys.shape  # [pages, kv_heads, PAGE_TOKENS, head_dim]
        if self.are_paired:
            blocks = keys.reshape(pages, kv_heads, -1, head_dim // 2, PAIRED_KEYS, 2)
            keys = blocks.transpose(-3, -2).reshape(pages, kv_heads, PAGE_TOKENS, head_dim)
        start = first // PAGE_TOKENS * PAGE_TOKENS
        return keys.transpose(0, 1).reshape(kv_heads, pages * PAGE_TOKENS, head_dim)[:, first - start : last - start]


def _from_a_large_page_on(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros that begin with a large page, so that the first page takes no part of another one."""
    size, large_page = math.prod(shape), LARGE_PAGE // dtype.itemsize
    numbers = zeros((size + large_page,), dtype, torch.device("cpu"))
    first = -numbers.data_ptr() % LARGE_PAGE // dtype.itemsize
    return numbers[first : first + size].view(*shape)
