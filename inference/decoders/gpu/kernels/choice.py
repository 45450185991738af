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
    _, place = peak(logits + row * stride, vocabulary, WIDTH)
    tl.store(tokens + row, place.to(tl.int64))


@triton.jit
def peak(logits, vocabulary, WIDTH: tl.constexpr):
    """A row's largest logit, and the first place where it is: -1 if the row is broken."""
    columns = tl.arange(0, WIDTH)
    best = tl.full([WIDTH], float("-inf"), tl.float32)
    where = tl.zeros([WIDTH], tl.int32)
    broken = tl.zeros([WIDTH], tl.int32)
    for first in range(0, vocabulary, WIDTH):
        places = first + columns
        values = tl.load(logits + places, mask=places < vocabulary, other=float("-inf")).to(tl.float32)
        broken = tl.where((values != values) | (values == float("inf")), 1, broken)
        is_better = values > best
        best = tl.where(is_better, values, best)
        where = tl.where(is_better, places, where)
    most = tl.max(best, 0)
    place = tl.min(tl.where(best == most, where, vocabulary), 0)
    is_broken = (tl.max(broken, 0) > 0) | (most == float("-inf"))
    return most, tl.where(is_broken, -1, place)
