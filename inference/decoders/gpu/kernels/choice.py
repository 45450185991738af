"""The choice of a step's tokens: for each row the largest logit."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference.decoders.gpu.kernels.overlap import overlap, wait_for_input

WIDTH, WARPS = 4096, 16
"""Logits that a program looks at at once, and in how many warps."""


def most_likely(logits: Tensor) -> Tensor:
    """The token of the largest of each row of logits [rows, vocabulary], of equal ones the first; -1 if one is broken.

    A row is broken by NaN or an infinite number, or if all its logits are -inf.
    """
    tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    if len(logits):
        rows, vocabulary = logits.shape
        size = {"WIDTH": WIDTH, "num_warps": WARPS}
        _most_likely[(rows,)](logits, tokens, vocabulary, logits.stride(0), **size, **overlap(logits))
    return tokens


@triton.jit
def _most_likely(logits, tokens, vocabulary, stride, WIDTH: tl.constexpr, OVERLAPS: tl.constexpr):
    wait_for_input(OVERLAPS)
    row = tl.program_id(0).to(tl.int64)
    largest, place = peak(logits + row * stride, 0, vocabulary, WIDTH)
    tl.store(tokens + row, tl.where(tl.abs(largest) == float("inf"), -1, place).to(tl.int64))


@triton.jit
def peak(logits, begin, end, WIDTH: tl.constexpr):
    """The largest logit of a part of a row, infinity if NaN is there, and the first place where it is."""
    columns = tl.arange(0, WIDTH)
    best = tl.full([WIDTH], float("-inf"), tl.float32)
    where = tl.full([WIDTH], 0, tl.int32)
    for first in range(begin, end, WIDTH):
        places = first + columns
        values = tl.load(logits + places, mask=places < end, other=float("-inf")).to(tl.float32)
        values = tl.where(values == values, values, float("inf"))
        is_better = values > best
        best = tl.where(is_better, values, best)
        where = tl.where(is_better, places, where)
    most = tl.max(best, 0)
    return most, tl.min(tl.where(best == most, where, end), 0)
