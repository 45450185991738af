"""Shared by the attention of single tokens and of prompts: norms and rotations of heads, and an online softmax.

A head is kept as its two halves, because a rotation turns each number of the first with one of the second.
"""

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

KEYS = 64
"""Positions of the cache that a program reads at once."""

Cached = tuple[Tensor, Tensor]
"""A layer's keys and values, [slots, pages, positions of a page, kv_heads, head_dim] each, with any strides."""


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """The settings of a layer's heads."""

    count: int
    """The number of query heads; how many share a key is in the cache's shape."""
    scale: float
    cosines: Tensor
    """[positions, head_dim / 2], float32, as the sines are."""
    sines: Tensor
    query_norm: Tensor | None = None
    """[head_dim], the weight of the norm of each head; so is that of the keys."""
    key_norm: Tensor | None = None
    epsilon: float = 0.0

    def sharing(self, cached: Cached) -> int:
        """How many heads share a key, up to the next power of two."""
        return int(triton.next_power_of_2(self.count // cached[0].shape[-2]))

    def shape(self, cached: Cached) -> dict[str, Any]:
        """The arguments of a kernel that reads or writes a cache."""
        keys, values = cached
        _, _, page, kv_heads, head_dim = keys.shape
        slot_stride, page_stride, column_stride, *_ = keys.stride()
        return {
            "keys": keys, "values": values,
            "slot_stride": slot_stride, "page_stride": page_stride, "column_stride": column_stride,
            "PAGE_TOKENS": page, "HEADS": self.count, "KV_HEADS": kv_heads, "HEAD_DIM": head_dim,
        }  # fmt: skip

    def rotation(self) -> dict[str, Any]:
        """The arguments of a kernel that rotates heads."""
        norms = {"query_norm": self.query_norm, "key_norm": self.key_norm, "epsilon": self.epsilon}
        return {"cosines": self.cosines, "sines": self.sines, **norms}


@triton.jit
def column(position, page_stride, column_stride, PAGE_TOKENS: tl.constexpr):
    """The offset of a position from the slot's first one."""
    return (position // PAGE_TOKENS).to(tl.int64) * page_stride + (position % PAGE_TOKENS).to(tl.int64) * column_stride


@triton.jit
def rotated(x, norm, cosines, sines, is_inside, offsets, epsilon, half: tl.constexpr):
    """The two halves of heads at `x` [heads, HALF], normed if they are to be, and rotated."""
    first, second = load_halves(x, is_inside, half)
    first, second = first.to(tl.float32), second.to(tl.float32)
    is_half = offsets < half
    if norm is not None:
        square = tl.sum(first * first, 1) + tl.sum(second * second, 1)
        scale = tl.rsqrt(square / (2 * half) + epsilon)[:, None]
        first *= scale * tl.load(norm + offsets, mask=is_half, other=0.0).to(tl.float32)[None, :]
        second *= scale * tl.load(norm + half + offsets, mask=is_half, other=0.0).to(tl.float32)[None, :]
    cosine = tl.load(cosines + offsets, mask=is_half, other=0.0)[None, :]
    sine = tl.load(sines + offsets, mask=is_half, other=0.0)[None, :]
    return first * cosine - second * sine, second * cosine + first * sine


@triton.jit
def load_halves(x, is_inside, half: tl.constexpr):
    return tl.load(x, mask=is_inside, other=0.0), tl.load(x + half, mask=is_inside, other=0.0)


@triton.jit
def store_halves(x, halves, is_inside, half: tl.constexpr):
    tl.store(x, halves[0], mask=is_inside)
    tl.store(x + half, halves[1], mask=is_inside)


@triton.jit
def in_type(halves, pointer):
    """Both halves as the numbers that `pointer` points to."""
    return halves[0].to(pointer.dtype.element_ty), halves[1].to(pointer.dtype.element_ty)


@triton.jit
def softmax_with(scores, most, weight):
    """Take `scores` [queries, keys] into a softmax whose largest score was `most`, and whose weights' sum `weight`.

    Returns:
        The weights of the scores, what all weights until now are to be multiplied with, and the new largest and sum.
    """
    new_most = tl.maximum(most, tl.max(scores, 1))
    fading = tl.exp(most - new_most)
    weights = tl.exp(scores - new_most[:, None])
    return weights, fading, new_most, weight * fading + tl.sum(weights, 1)
