"""Norms, gates and embeddings: kernels that do one thing to each number of a row."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference.decoders.gpu.kernels.overlap import overlap, wait_for_input

WIDTH = 1024
"""Numbers that a program of `embed` and `gate` takes."""


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """The RMS norm of rows [rows, size]."""
    output, size = torch.empty_like(x), len(weight)
    if len(x):
        width = triton.next_power_of_2(size)
        _norm[(len(x),)](x, weight, output, epsilon, SIZE=size, WIDTH=width, num_warps=4, **overlap(x))
    return output


@triton.jit
def _norm(x, weight, output, epsilon, SIZE: tl.constexpr, WIDTH: tl.constexpr, OVERLAPS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    is_inside = columns < SIZE
    weights = tl.load(weight + columns, mask=is_inside, other=0.0).to(tl.float32)
    wait_for_input(OVERLAPS)
    values = tl.load(x + row * SIZE + columns, mask=is_inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, 0) / SIZE + epsilon)
    tl.store(output + row * SIZE + columns, (values * scale * weights).to(output.dtype.element_ty), mask=is_inside)


def gate(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of [rows, 2 * size]: [rows, size]."""
    rows, size = len(gate_up), gate_up.shape[1] // 2
    output = gate_up.new_empty(rows, size)
    grid = (rows, triton.cdiv(size, WIDTH))
    _gate[grid](gate_up, output, size, WIDTH=WIDTH, num_warps=4, **overlap(gate_up))
    return output


@triton.jit
def _gate(gate_up, output, size, WIDTH: tl.constexpr, OVERLAPS: tl.constexpr):
    wait_for_input(OVERLAPS)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    is_inside = columns < size
    gate = tl.load(gate_up + row * 2 * size + columns, mask=is_inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * size + size + columns, mask=is_inside, other=0.0).to(tl.float32)
    tl.store(output + row * size + columns, (gate * tl.sigmoid(gate) * up).to(output.dtype.element_ty), mask=is_inside)


def embed(token_ids: Tensor, embedding: Tensor) -> Tensor:
    """The rows [tokens, size] of an embedding; the first one where a token is -1, because its row is broken."""
    size = embedding.shape[1]
    output = embedding.new_empty(len(token_ids), size)
    grid = (len(token_ids), triton.cdiv(size, WIDTH))
    _embed[grid](token_ids, embedding, output, SIZE=size, WIDTH=WIDTH, num_warps=4, **overlap(output))
    return output


@triton.jit
def _embed(token_ids, embedding, output, SIZE: tl.constexpr, WIDTH: tl.constexpr, OVERLAPS: tl.constexpr):
    wait_for_input(OVERLAPS)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    is_inside = columns < SIZE
    token_id = tl.maximum(tl.load(token_ids + row), 0)
    tl.store(output + row * SIZE + columns, tl.load(embedding + token_id * SIZE + columns, mask=is_inside), is_inside)
