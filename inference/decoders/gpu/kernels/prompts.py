"""Attention of prompts: all their tokens are rotated and stored first, then each attends to its slot."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference.decoders.gpu.kernels.attention import (
    KEYS,
    Cached,
    Heads,
    column,
    in_type,
    load_halves,
    rotated,
    softmax_with,
    store_halves,
)

QUERIES, WIDE_QUERIES = 128, 32
"""Rows of `attend_chunks`' products, tokens times the heads that share a key: as many as its registers hold, where
heads have up to 64 numbers of two bytes, and where they have more."""


def tokens_per_block(heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """How many neighbouring tokens of a prompt a program of `attend_chunks` takes."""
    queries = QUERIES if head_dim * dtype.itemsize <= 128 else WIDE_QUERIES
    group = int(triton.next_power_of_2(heads // kv_heads))
    return max(16 // group, queries // group, 1)


def attend_chunks(
    qkv: Tensor, cached: Cached, positions: Tensor, slots: Tensor, blocks: Tensor, heads: Heads
) -> Tensor:
    """Store the keys and values of any number of tokens of any slots, then attend each to its slot.

    Args:
        blocks: [blocks, 4], of at most `tokens_per_block` neighbouring tokens each: the first one's row, how many they
            are, their slot, and the first one's position.

    The others, and what it returns, are those of `attend_rows`; `qkv` is written over.
    """
    *_, kv_heads, head_dim = cached[0].shape
    shape = heads.shape(cached)
    _rotate[(len(qkv), heads.count + 2 * kv_heads)](
        qkv, positions=positions, slots=slots, HALF=triton.next_power_of_2(head_dim // 2), num_warps=1,
        **shape, **heads.rotation(),
    )  # fmt: skip
    output = qkv.new_empty(len(qkv), heads.count * head_dim)
    _attend_chunks[(len(blocks), kv_heads)](
        qkv, blocks=blocks, output=output, scale=heads.scale,
        WIDTH=max(16, triton.next_power_of_2(head_dim)), GROUP=heads.sharing(cached),
        TOKENS=tokens_per_block(heads.count, kv_heads, head_dim, qkv.dtype),
        KEYS=KEYS if qkv.dtype.itemsize == 2 else KEYS // 2, num_warps=4, **shape,
    )  # fmt: skip
    return output


@triton.jit
def _rotate(
    qkv, keys, values, positions, slots, cosines, sines, query_norm, key_norm, epsilon,
    slot_stride, page_stride, column_stride,
    PAGE_TOKENS: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Rotate a token's query where it lies, or its key into the cache, or copy its value there."""
    row, head = tl.program_id(0), tl.program_id(1)
    half: tl.constexpr = HEAD_DIM // 2
    position, slot = tl.load(positions + row), tl.load(slots + row)
    offsets, one = tl.arange(0, HALF), tl.arange(0, 1)
    is_half = (offsets < half)[None, :]
    place = qkv + (row.to(tl.int64) * (HEADS + 2 * KV_HEADS) + head) * HEAD_DIM + offsets[None, :] + one[:, None]
    cached = slot.to(tl.int64) * slot_stride + column(position, page_stride, column_stride, PAGE_TOKENS)
    cached += offsets[None, :] + one[:, None]
    angles, more_angles = cosines + position * half, sines + position * half
    if head < HEADS:
        query = rotated(place, query_norm, angles, more_angles, is_half, offsets, epsilon, half)
        store_halves(place, in_type(query, qkv), is_half, half)
    elif head < HEADS + KV_HEADS:
        key = rotated(place, key_norm, angles, more_angles, is_half, offsets, epsilon, half)
        store_halves(keys + cached + (head - HEADS) * HEAD_DIM, in_type(key, qkv), is_half, half)
    else:
        value = load_halves(place, is_half, half)
        store_halves(values + cached + (head - HEADS - KV_HEADS) * HEAD_DIM, value, is_half, half)


@triton.jit
def _attend_chunks(
    qkv, keys, values, blocks, output, scale, slot_stride, page_stride, column_stride,
    PAGE_TOKENS: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr, GROUP: tl.constexpr, TOKENS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """A block's tokens attend to their slot, with the heads that share a key."""
    block, kv_head = tl.program_id(0), tl.program_id(1)
    group: tl.constexpr = HEADS // KV_HEADS
    first, count = tl.load(blocks + 4 * block), tl.load(blocks + 4 * block + 1)
    slot, start = tl.load(blocks + 4 * block + 2), tl.load(blocks + 4 * block + 3)
    queries, offsets = tl.arange(0, TOKENS * GROUP), tl.arange(0, WIDTH)
    tokens, heads = queries // GROUP, queries % GROUP
    is_inside = (offsets < HEAD_DIM)[None, :]
    is_query = ((tokens < count) & (heads < group))[:, None] & is_inside
    rows, head = (first + tokens).to(tl.int64), kv_head * group + heads
    places = (rows * (HEADS + 2 * KV_HEADS) + head)[:, None] * HEAD_DIM + offsets[None, :]
    query = tl.load(qkv + places, mask=is_query, other=0.0)
    base = slot.to(tl.int64) * slot_stride + kv_head * HEAD_DIM + offsets[None, :]
    sums, weight = _attend_slot(
        query, keys + base, values + base, page_stride, column_stride, start + tokens, start + count, is_inside, scale,
        PAGE_TOKENS, KEYS,
    )  # fmt: skip
    places = (rows * HEADS + head)[:, None] * HEAD_DIM + offsets[None, :]
    tl.store(output + places, (sums / weight[:, None]).to(output.dtype.element_ty), mask=is_query)


@triton.jit
def _attend_slot(
    query, keys, values, page_stride, column_stride, positions, end, is_inside, scale,
    PAGE_TOKENS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """What each query sees of a slot up to its own position: the weighed sum of the values, and the sum of weights."""
    most = tl.full([query.shape[0]], float("-inf"), tl.float32)
    weight = tl.zeros([query.shape[0]], tl.float32)
    sums = tl.zeros([query.shape[0], query.shape[1]], tl.float32)
    for begin in range(0, end, KEYS):
        columns = begin + tl.arange(0, KEYS)
        places = column(columns, page_stride, column_stride, PAGE_TOKENS)[:, None]
        is_there = (columns < end)[:, None] & is_inside
        key = tl.load(keys + places, mask=is_there, other=0.0)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        scores = tl.where(columns[None, :] <= positions[:, None], scores, float("-inf"))
        weights, fading, most, weight = softmax_with(scores, most, weight)
        value = tl.load(values + places, mask=is_there, other=0.0)
        sums = tl.dot(weights.to(value.dtype), value, acc=sums * fading[:, None], input_precision="ieee")
    return sums, weight
