"""Keys and values in pages, as in `inference.cache.pages`, on a GPU: memory follows the tokens that are used.

A slot has addresses for the whole context, and memory for what it has held so far (see `reserved`). Kernels read a slot
up to its own last token, so what lies behind it need not be cleared.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from inference.cache.pages import KEYS, VALUES, BasePages, Layers
from inference.cache.reserved import memory_of
from inference.cache.sizes import PAGE_TOKENS, page_count, row_length
from inference.cache.storage import Span, by_span
from inference.transfer import to_device


class GpuPages(BasePages):
    """Pages on a GPU: [slots, pages, layers, 2, PAGE_TOKENS, kv_heads, head_dim]."""

    shares_beginnings, appends = False, True
    state_bytes = 0

    def __init__(self, slots: int, context: int, layers: Layers, device: torch.device) -> None:
        page = (layers.count, 2, PAGE_TOKENS, layers.kv_heads, layers.head_dim)
        pages = page_count(row_length(context))
        self._page_bytes = math.prod(page) * layers.dtype.itemsize
        self._slot_bytes = pages * self._page_bytes
        self._memory = memory_of(slots * self._slot_bytes, device)
        numbers = self._memory.tensor()[: slots * self._slot_bytes].view(layers.dtype)
        super().__init__(numbers.view(slots, pages, *page))

    def layer(self, number: int) -> tuple[Tensor, Tensor]:
        """A layer's keys and values, [slots, pages, PAGE_TOKENS, kv_heads, head_dim] each."""
        return self.numbers[:, :, number, KEYS], self.numbers[:, :, number, VALUES]

    def provide(self) -> None:
        """Do nothing: a GPU has its memory at hand."""

    def reserve(self, slot: int, first: int, last: int) -> None:
        begin = slot * self._slot_bytes
        self._memory.back(begin, begin + page_count(last) * self._page_bytes)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy whole pages, with what the last one holds behind `length`."""
        self.reserve(target, 0, length)
        pages = page_count(length)
        self.numbers[target, :pages] = self.numbers[source, :pages]

    def are_finite(self, spans: Sequence[Span]) -> list[bool]:
        if not spans:
            return []
        tokens = [(slot, position) for slot, first, last in spans for position in range(first, last)]
        slots, positions = to_device(torch.tensor(tokens).T.contiguous(), self.numbers.device)
        pages, places = positions // PAGE_TOKENS, positions % PAGE_TOKENS
        keys = self.layer(-1)[KEYS][slots, pages, places]  # [tokens, kv_heads, head_dim]
        return by_span(keys.isfinite().all(-1).all(-1), spans)

    @property
    def backed_bytes(self) -> int:
        """What it takes by now."""
        return self._memory.backed_bytes
