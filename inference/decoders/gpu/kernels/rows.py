"""Attention of single tokens: each row's token is rotated, stored in its slot, and attends to it."""

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
from inference.decoders.gpu.kernels.overlap import overlap, wait_for_input

PROGRAMS = 256
"""About how many programs keep a GPU busy; see `parts_for`."""
MOST_PARTS = 16


def attend_rows(
    qkv: Tensor, cached: Cached, positions: Tensor, slots: Tensor, heads: Heads, parts: int | None = None
) -> Tensor:
    """Store one token's key and value for each row, and attend it to its slot.

    Args:
        qkv: [rows, (heads + 2 * kv_heads) * head_dim], as the product gives it, not rotated.

    Returns:
        [rows, heads * head_dim].
    """
    *_, kv_heads, head_dim = cached[0].shape
    rows = len(qkv)
    parts = parts or parts_for(rows, kv_heads)
    output = qkv.new_empty(rows, heads.count * head_dim)
    is_split = parts > 1
    sums = qkv.new_empty(rows, heads.count, parts, head_dim, dtype=torch.float32) if is_split else output
    largest, total = qkv.new_empty(2, rows, heads.count, parts, dtype=torch.float32) if is_split else (None, None)
    _attend_rows[(rows, kv_heads, parts)](
        qkv, positions=positions, slots=slots, output=sums, largest=largest, total=total, scale=heads.scale,
        HALF=max(16, triton.next_power_of_2(head_dim // 2)), GROUP=max(16, heads.sharing(cached)),
        PARTS=parts, KEYS=KEYS, num_warps=4, **heads.shape(cached), **heads.rotation(), **overlap(qkv),
    )  # fmt: skip
    if is_split:
        size = {"HEAD_DIM": head_dim, "WIDTH": triton.next_power_of_2(head_dim), "PARTS": parts, "num_warps": 4}
        _merge[(rows * heads.count,)](sums, largest, total, output, **size, **overlap(qkv))
    return output


def parts_for(rows: int, kv_heads: int) -> int:
    """Into how many parts a text is cut, so that few rows keep the whole GPU busy too: a power of two."""
    parts = 1
    while 2 * parts * rows * kv_heads <= PROGRAMS and parts < MOST_PARTS:
        parts *= 2
    return parts


@triton.jit
def _attend_rows(
    qkv, keys, values, positions, slots, cosines, sines, query_norm, key_norm, output, largest, total,
    epsilon, scale, slot_stride, page_stride, column_stride,
    PAGE_TOKENS: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr, GROUP: tl.constexpr, PARTS: tl.constexpr, KEYS: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    """The heads of a row that share a key attend to a part of its slot."""
    wait_for_input(OVERLAPS)
    row, kv_head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group: tl.constexpr = HEADS // KV_HEADS
    half: tl.constexpr = HEAD_DIM // 2
    position, slot = tl.load(positions + row), tl.load(slots + row)
    heads, offsets, one = tl.arange(0, GROUP), tl.arange(0, HALF), tl.arange(0, 1)
    is_head, is_half = heads < group, (offsets < half)[None, :]
    token = qkv + row.to(tl.int64) * (HEADS + 2 * KV_HEADS) * HEAD_DIM
    angles, more_angles = cosines + position * half, sines + position * half
    places = token + (kv_head * group + heads[:, None]) * HEAD_DIM + offsets[None, :]
    query = rotated(places, query_norm, angles, more_angles, is_head[:, None] & is_half, offsets, epsilon, half)
    query = in_type(query, qkv)
    # The token's own key and value come from its own row, so that no program waits for another's store.
    places = token + (HEADS + kv_head + one[:, None]) * HEAD_DIM + offsets[None, :]
    key = in_type(rotated(places, key_norm, angles, more_angles, is_half, offsets, epsilon, half), qkv)
    value = load_halves(places + KV_HEADS * HEAD_DIM, is_half, half)
    base = slot.to(tl.int64) * slot_stride + kv_head * HEAD_DIM
    if part == 0:  # noqa: SIM102 - in Triton's language `and` computes both sides
        if slot >= 0:
            new = base + column(position, page_stride, column_stride, PAGE_TOKENS) + offsets[None, :]
            store_halves(keys + new, key, is_half, half)
            store_halves(values + new, value, is_half, half)
    begin, end = _bounds(position, slot, part, PARTS, KEYS)
    most, weight, sums = _begun(query, key, value, part, scale, GROUP, HALF)
    most, weight, sums = _attend_slot(
        query, keys + base, values + base, page_stride, column_stride, begin, end, most, weight, sums, offsets, scale,
        half, PAGE_TOKENS, KEYS,
    )  # fmt: skip
    number = (row * HEADS + kv_head * group + heads) * PARTS + part
    places = output + number.to(tl.int64)[:, None] * HEAD_DIM + offsets[None, :]
    if PARTS == 1:
        sums = (sums[0] / weight[:, None], sums[1] / weight[:, None])
    else:
        tl.store(largest + number, most, mask=is_head)
        tl.store(total + number, weight, mask=is_head)
    store_halves(places, in_type(sums, output), is_head[:, None] & is_half, half)


@triton.jit
def _bounds(position, slot, part, PARTS: tl.constexpr, KEYS: tl.constexpr):
    """The positions of a slot that a part begins at and ends before: none if the row has no slot."""
    per_part = tl.cdiv(tl.cdiv(position, PARTS), KEYS) * KEYS
    begin = part * per_part
    end = tl.minimum(begin + per_part, position)
    if slot < 0:
        end = begin
    return begin, end


@triton.jit
def _begun(query, key, value, part, scale, GROUP: tl.constexpr, HALF: tl.constexpr):
    """A softmax of the token itself in the first part, of nothing in the others: largest score, weight, and sums."""
    own = tl.sum(query[0].to(tl.float32) * key[0].to(tl.float32), 1)
    own = (own + tl.sum(query[1].to(tl.float32) * key[1].to(tl.float32), 1)) * scale
    is_first = (part == 0).to(tl.float32)
    most = tl.where(part == 0, own, float("-inf"))
    weight = is_first + tl.zeros([GROUP], tl.float32)
    sum_first = is_first * (tl.zeros([GROUP, HALF], tl.float32) + value[0].to(tl.float32))
    sum_second = is_first * (tl.zeros([GROUP, HALF], tl.float32) + value[1].to(tl.float32))
    return most, weight, (sum_first, sum_second)


@triton.jit
def _attend_slot(
    query, keys, values, page_stride, column_stride, begin, end, most, weight, sums, offsets, scale,
    half: tl.constexpr, PAGE_TOKENS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Take a slot's positions from `begin` to `end` into the softmax."""
    sum_first, sum_second = sums
    is_half = (offsets < half)[None, :]
    for start in range(begin, end, KEYS):
        columns = start + tl.arange(0, KEYS)
        is_key = columns < end
        places = column(columns, page_stride, column_stride, PAGE_TOKENS)[:, None] + offsets[None, :]
        is_there = is_key[:, None] & is_half
        key = load_halves(keys + places, is_there, half)
        scores = tl.dot(query[0], tl.trans(key[0]), input_precision="ieee")
        scores = tl.dot(query[1], tl.trans(key[1]), acc=scores, input_precision="ieee") * scale
        scores = tl.where(is_key[None, :], scores, float("-inf"))
        weights, fading, most, weight = softmax_with(scores, most, weight)
        value = load_halves(values + places, is_there, half)
        weights = weights.to(value[0].dtype)
        sum_first = tl.dot(weights, value[0], acc=sum_first * fading[:, None], input_precision="ieee")
        sum_second = tl.dot(weights, value[1], acc=sum_second * fading[:, None], input_precision="ieee")
    return most, weight, (sum_first, sum_second)


@triton.jit
def _merge(
    sums, largest, total, output,
    HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    """Add up the parts of a long text, each with its share of the whole softmax."""
    wait_for_input(OVERLAPS)
    head = tl.program_id(0)
    parts = head * PARTS + tl.arange(0, PARTS)
    offsets = tl.arange(0, WIDTH)
    is_inside = offsets < HEAD_DIM
    most = tl.load(largest + parts)
    share = tl.exp(most - tl.max(most, 0))
    weight = tl.sum(tl.load(total + parts) * share, 0)
    places = sums + parts.to(tl.int64)[:, None] * HEAD_DIM + offsets[None, :]
    part_sums = tl.load(places, mask=is_inside[None, :], other=0.0)
    result = tl.sum(part_sums * share[:, None], 0) / weight
    tl.store(output + head.to(tl.int64) * HEAD_DIM + offsets, result.to(output.dtype.element_ty), mask=is_inside)
