"""A step's kernels for a Llama-type model on a GPU, in Triton.

At one token, the products of a layer of a 1.1B model read 92 MB, which takes a large GPU 22 µs, and each of the twenty
small operators between them takes another 2 to 5. So here a kernel does all that lies between two reads of weights:

    multiply        one row times a matrix: with the norm before it, and the gate or the residual after it
    attend_rows     rotates a token's query and key, stores the key and value, and attends to the token's slot
    merge           adds up the parts of a long text that `attend_rows` has left to several programs
    rotate, attend_chunks    the same for prompts, whose tokens must all be stored before the first one attends
    rms_norm, gate  what `multiply` does along the way, for more rows than one
    embed, most_likely      the first and the last kernel of a greedy step

Every kernel reads a slot up to its own token and no further: there are no masks, and nothing to clear. A row whose slot
is -1 is none: it stores nothing, and what it computes is not used.

On Hopper and later GPUs a kernel begins while the one before it still runs, asks for its first weights, and waits only
then (programmatic dependent launch; `gdc_wait`). So the memory has work between two kernels too.
"""

# What is under `triton.jit` is Triton's language and not Python's, and its arguments have no types to tell.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, attr-defined, import-not-found"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

OVERLAPS = True
"""Whether kernels begin before the end of the ones before them, where the GPU can (Hopper and later)."""
KEYS = 64
"""Positions of the cache that a program reads at once."""
PROGRAMS = 256
"""About how many programs keep a GPU busy; see `parts_for`."""
MOST_PARTS = 16
QUERIES, WIDE_QUERIES = 128, 32
"""Rows of `attend_chunks`' products, tokens times the heads that share a key: as many as its registers hold, where
heads have up to 64 numbers of two bytes, and where they have more."""


# --- Products with one row --------------------------------------------------------------------------------------------


@triton.jit
def _multiply(
    x,
    norm,
    weight,
    bias,
    output,
    outputs,
    epsilon,
    inputs: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    IS_GATED: tl.constexpr,
    IS_ADDED: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    if OVERLAPS:
        gdc_launch_dependents()
    rows = (tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)).to(tl.int64)
    is_row = rows < outputs
    columns = tl.arange(0, INPUTS)
    is_column = columns < inputs
    places = weight + rows[:, None] * inputs + columns[None, :]
    is_inside = is_row[:, None] & is_column[None, :]
    # Weights do not depend on the kernel before this one: the first of them are on their way before its end.
    weights = tl.load(places, mask=is_inside, other=0.0)
    if IS_GATED:
        up_weights = tl.load(places + outputs * inputs, mask=is_inside, other=0.0)
    if OVERLAPS:
        gdc_wait()
    values = tl.load(x + columns, mask=is_column, other=0.0).to(tl.float32)
    squares = values * values
    if HAS_NORM:
        values *= tl.load(norm + columns, mask=is_column, other=0.0).to(tl.float32)
    sums = weights.to(tl.float32) * values[None, :]
    if IS_GATED:
        up_sums = up_weights.to(tl.float32) * values[None, :]
    for first in tl.static_range(INPUTS, inputs, INPUTS):
        is_left = first + columns < inputs
        is_there = is_row[:, None] & is_left[None, :]
        more_weights = tl.load(places + first, mask=is_there, other=0.0).to(tl.float32)
        if IS_GATED:
            more_up_weights = tl.load(places + outputs * inputs + first, mask=is_there, other=0.0).to(tl.float32)
        more_values = tl.load(x + first + columns, mask=is_left, other=0.0).to(tl.float32)
        if HAS_NORM:
            squares += more_values * more_values
            more_values *= tl.load(norm + first + columns, mask=is_left, other=0.0).to(tl.float32)
        sums += more_weights * more_values[None, :]
        if IS_GATED:
            up_sums += more_up_weights * more_values[None, :]
    result = tl.sum(sums, 1)
    scale = 1.0
    if HAS_NORM:
        scale = tl.rsqrt(tl.sum(squares, 0) / inputs + epsilon)
    result *= scale
    if HAS_BIAS:
        result += tl.load(bias + rows, mask=is_row, other=0.0).to(tl.float32)
    if IS_GATED:
        result = result * tl.sigmoid(result) * (tl.sum(up_sums, 1) * scale)
    if IS_ADDED:
        result += tl.load(output + rows, mask=is_row, other=0.0).to(tl.float32)
    tl.store(output + rows, result.to(output.dtype.element_ty), mask=is_row)


def multiply(
    x: Tensor,
    weight: Tensor,
    norm: Tensor | None = None,
    epsilon: float = 0.0,
    bias: Tensor | None = None,
    add_to: Tensor | None = None,
    is_gated: bool = False,
) -> Tensor:
    """A row [1, inputs] times `weight` [outputs, inputs], in one kernel with what comes before and after it.

    Args:
        norm: [inputs], the weight of an RMS norm of `x`.
        add_to: [1, outputs], which the product is added to, in place.
        is_gated: the weight holds a gate and an up projection; the result is silu(gate) * up, half as wide.
    """
    outputs, inputs = weight.shape
    outputs = outputs // 2 if is_gated else outputs
    output = x.new_empty(1, outputs) if add_to is None else add_to
    rows, columns, warps = tile(inputs, is_gated)
    _multiply[(triton.cdiv(outputs, rows),)](
        x,
        x if norm is None else norm,
        weight,
        x if bias is None else bias,
        output,
        outputs,
        epsilon,
        inputs,
        HAS_NORM=norm is not None,
        HAS_BIAS=bias is not None,
        IS_GATED=is_gated,
        IS_ADDED=add_to is not None,
        OUTPUTS=rows,
        INPUTS=columns,
        num_warps=warps,
        **_overlap(x),
    )
    return output


def tile(inputs: int, is_gated: bool) -> tuple[int, int, int]:
    """How many outputs and inputs a program of `_multiply` holds at once, and in how many warps.

    So many that a program asks for 8 to 16 KB before it waits for any of it; measured on an H200.
    """
    columns = min(2048, int(triton.next_power_of_2(inputs)))
    if is_gated:
        return 1, columns, 4
    return (8, 1024, 8) if inputs > 4096 else (2, columns, 4)


def _overlap(x: Tensor) -> dict[str, Any]:
    """How a kernel is launched that may begin before the end of the one before it, up to its `gdc_wait`."""
    overlaps = OVERLAPS and x.is_cuda and torch.cuda.get_device_capability(x.device)[0] >= 9
    return {"OVERLAPS": True, "launch_pdl": True} if overlaps else {"OVERLAPS": False}


@triton.jit
def _norm(x, weight, output, epsilon, SIZE: tl.constexpr, WIDTH: tl.constexpr, OVERLAPS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    is_inside = columns < SIZE
    weights = tl.load(weight + columns, mask=is_inside, other=0.0).to(tl.float32)
    if OVERLAPS:
        gdc_launch_dependents()
        gdc_wait()
    values = tl.load(x + row * SIZE + columns, mask=is_inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, 0) / SIZE + epsilon)
    tl.store(output + row * SIZE + columns, (values * scale * weights).to(output.dtype.element_ty), mask=is_inside)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """The RMS norm of rows [rows, size]."""
    output, size = torch.empty_like(x), len(weight)
    if len(x):
        width = triton.next_power_of_2(size)
        _norm[(len(x),)](x, weight, output, epsilon, SIZE=size, WIDTH=width, num_warps=4, **_overlap(x))
    return output


# --- Attention of single tokens ---------------------------------------------------------------------------------------


@triton.jit
def _rotated(x, norm, cosines, sines, is_inside, is_half, epsilon, HAS_NORM: tl.constexpr, half, offsets):
    """The two halves of heads at `x` [heads, HALF], normed if they are to be, and rotated."""
    first = tl.load(x, mask=is_inside, other=0.0).to(tl.float32)
    second = tl.load(x + half, mask=is_inside, other=0.0).to(tl.float32)
    if HAS_NORM:
        square = tl.sum(first * first, 1) + tl.sum(second * second, 1)
        scale = tl.rsqrt(square / (2 * half) + epsilon)[:, None]
        first *= scale * tl.load(norm + offsets, mask=is_half, other=0.0).to(tl.float32)[None, :]
        second *= scale * tl.load(norm + half + offsets, mask=is_half, other=0.0).to(tl.float32)[None, :]
    cosine = tl.load(cosines + offsets, mask=is_half, other=0.0)[None, :]
    sine = tl.load(sines + offsets, mask=is_half, other=0.0)[None, :]
    return first * cosine - second * sine, second * cosine + first * sine


@triton.jit
def _attend_rows(
    qkv,
    keys,
    values,
    positions,
    slots,
    cosines,
    sines,
    query_norm,
    key_norm,
    output,
    largest,
    total,
    epsilon,
    scale,
    slot_stride,
    column_stride,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    GROUP: tl.constexpr,
    PARTS: tl.constexpr,
    HAS_NORM: tl.constexpr,
    KEYS: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    if OVERLAPS:
        gdc_launch_dependents()
        gdc_wait()
    row, kv_head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group: tl.constexpr = HEADS // KV_HEADS
    half: tl.constexpr = HEAD_DIM // 2
    position = tl.load(positions + row)
    slot = tl.load(slots + row)
    heads = tl.arange(0, GROUP)
    offsets = tl.arange(0, HALF)
    is_half = offsets < half
    is_head = heads < group
    is_inside = is_head[:, None] & is_half[None, :]
    per_part = tl.cdiv(tl.cdiv(position, PARTS), KEYS) * KEYS
    begin = part * per_part
    end = tl.minimum(begin + per_part, position)
    if slot < 0:
        end = begin

    token = qkv + row.to(tl.int64) * (HEADS + 2 * KV_HEADS) * HEAD_DIM
    places = token + (kv_head * group + heads[:, None]) * HEAD_DIM + offsets[None, :]
    angles, more_angles = cosines + position * half, sines + position * half
    first, second = _rotated(
        places, query_norm, angles, more_angles, is_inside, is_half, epsilon, HAS_NORM, half, offsets
    )
    dtype = qkv.dtype.element_ty
    # The token's own key and value come from its own row, so that no program waits for another's store.
    one = tl.arange(0, 1)
    key_places = token + (HEADS + kv_head + one[:, None]) * HEAD_DIM + offsets[None, :]
    key_first, key_second = _rotated(
        key_places, key_norm, angles, more_angles, is_half[None, :], is_half, epsilon, HAS_NORM, half, offsets
    )
    value_places = token + (HEADS + KV_HEADS + kv_head) * HEAD_DIM + offsets
    value_first = tl.load(value_places, mask=is_half, other=0.0)
    value_second = tl.load(value_places + half, mask=is_half, other=0.0)
    key_first, key_second = key_first.to(dtype), key_second.to(dtype)
    base = slot.to(tl.int64) * slot_stride + kv_head * HEAD_DIM
    if part == 0:  # noqa: SIM102 - in Triton's language `and` computes both sides
        if slot >= 0:
            new = base + position * column_stride + offsets
            tl.store(keys + new[None, :], key_first, mask=is_half[None, :])
            tl.store(keys + half + new[None, :], key_second, mask=is_half[None, :])
            tl.store(values + new, value_first, mask=is_half)
            tl.store(values + half + new, value_second, mask=is_half)

    first, second = first.to(dtype), second.to(dtype)
    own = tl.sum(first.to(tl.float32) * key_first.to(tl.float32), 1)
    own = (own + tl.sum(second.to(tl.float32) * key_second.to(tl.float32), 1)) * scale
    is_first = (part == 0).to(tl.float32)
    most = tl.where(part == 0, own, float("-inf"))
    weight = is_first + tl.zeros([GROUP], tl.float32)
    sum_first = is_first * (tl.zeros([GROUP, HALF], tl.float32) + value_first.to(tl.float32)[None, :])
    sum_second = is_first * (tl.zeros([GROUP, HALF], tl.float32) + value_second.to(tl.float32)[None, :])

    for start in range(begin, end, KEYS):
        columns = start + tl.arange(0, KEYS)
        is_key = columns < end
        cached = base + columns.to(tl.int64)[:, None] * column_stride + offsets[None, :]
        is_there = is_key[:, None] & is_half[None, :]
        seen_first = tl.load(keys + cached, mask=is_there, other=0.0)
        seen_second = tl.load(keys + half + cached, mask=is_there, other=0.0)
        scores = tl.dot(first, tl.trans(seen_first), input_precision="ieee")
        scores = tl.dot(second, tl.trans(seen_second), acc=scores, input_precision="ieee") * scale
        scores = tl.where(is_key[None, :], scores, float("-inf"))
        new_most = tl.maximum(most, tl.max(scores, 1))
        fading = tl.exp(most - new_most)
        weights = tl.exp(scores - new_most[:, None])
        weight = weight * fading + tl.sum(weights, 1)
        value_one = tl.load(values + cached, mask=is_there, other=0.0)
        value_two = tl.load(values + half + cached, mask=is_there, other=0.0)
        sum_first = tl.dot(weights.to(dtype), value_one, acc=sum_first * fading[:, None], input_precision="ieee")
        sum_second = tl.dot(weights.to(dtype), value_two, acc=sum_second * fading[:, None], input_precision="ieee")
        most = new_most

    number = row * HEADS + kv_head * group + heads
    if PARTS == 1:
        place = number.to(tl.int64)[:, None] * HEAD_DIM + offsets[None, :]
        tl.store(output + place, (sum_first / weight[:, None]).to(output.dtype.element_ty), mask=is_inside)
        tl.store(output + half + place, (sum_second / weight[:, None]).to(output.dtype.element_ty), mask=is_inside)
    else:
        number = number * PARTS + part
        place = number.to(tl.int64)[:, None] * HEAD_DIM + offsets[None, :]
        tl.store(output + place, sum_first, mask=is_inside)
        tl.store(output + half + place, sum_second, mask=is_inside)
        tl.store(largest + number, most, mask=is_head)
        tl.store(total + number, weight, mask=is_head)


@triton.jit
def _merge(
    sums,
    largest,
    total,
    output,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    if OVERLAPS:
        gdc_launch_dependents()
        gdc_wait()
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


def parts_for(rows: int, kv_heads: int) -> int:
    """Into how many parts a text is cut, so that few rows keep the whole GPU busy too: a power of two."""
    parts = 1
    while 2 * parts * rows * kv_heads <= PROGRAMS and parts < MOST_PARTS:
        parts *= 2
    return parts


def attend_rows(
    qkv: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor,
    slots: Tensor,
    cosines: Tensor,
    sines: Tensor,
    heads: int,
    scale: float,
    norms: tuple[Tensor, Tensor] | None = None,
    epsilon: float = 0.0,
    parts: int | None = None,
) -> Tensor:
    """Store one token's key and value for each row, and attend it to its slot.

    Args:
        qkv: [rows, (heads + 2 * kv_heads) * head_dim], as the product gives it, not rotated.
        keys, values: [slots, columns, kv_heads, head_dim], a layer's cache.
        cosines, sines: [positions, head_dim / 2], float32.
        norms: [head_dim] each, the weights of the norms of queries and keys.

    Returns:
        [rows, heads * head_dim].
    """
    _, _, kv_heads, head_dim = keys.shape
    rows = len(qkv)
    parts = parts or parts_for(rows, kv_heads)
    output = qkv.new_empty(rows, heads * head_dim)
    is_split = parts > 1
    sums = qkv.new_empty(rows, heads, parts, head_dim, dtype=torch.float32) if is_split else output
    states = qkv.new_empty(2, rows, heads, parts, dtype=torch.float32) if is_split else (output, output)
    query_norm, key_norm = norms or (qkv, qkv)
    _attend_rows[(rows, kv_heads, parts)](
        qkv,
        keys,
        values,
        positions,
        slots,
        cosines,
        sines,
        query_norm,
        key_norm,
        sums,
        states[0],
        states[1],
        epsilon,
        scale,
        keys.stride(0),
        keys.stride(1),
        HEADS=heads,
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        HALF=max(16, triton.next_power_of_2(head_dim // 2)),
        GROUP=max(16, triton.next_power_of_2(heads // kv_heads)),
        PARTS=parts,
        HAS_NORM=norms is not None,
        KEYS=KEYS,
        num_warps=4,
        **_overlap(qkv),
    )
    if is_split:
        _merge[(rows * heads,)](
            sums,
            states[0],
            states[1],
            output,
            HEAD_DIM=head_dim,
            WIDTH=triton.next_power_of_2(head_dim),
            PARTS=parts,
            num_warps=4,
            **_overlap(qkv),
        )
    return output


# --- Attention of prompts ---------------------------------------------------------------------------------------------


@triton.jit
def _rotate(
    qkv,
    keys,
    values,
    positions,
    slots,
    cosines,
    sines,
    query_norm,
    key_norm,
    epsilon,
    slot_stride,
    column_stride,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    HAS_NORM: tl.constexpr,
):
    row, head = tl.program_id(0), tl.program_id(1)
    half: tl.constexpr = HEAD_DIM // 2
    position = tl.load(positions + row)
    slot = tl.load(slots + row)
    offsets = tl.arange(0, HALF)
    is_half = offsets < half
    one = tl.arange(0, 1)
    place = (row.to(tl.int64) * (HEADS + 2 * KV_HEADS) + head) * HEAD_DIM + offsets[None, :] + one[:, None]
    cached = slot.to(tl.int64) * slot_stride + position * column_stride + offsets[None, :] + one[:, None]
    mask = is_half[None, :]
    angles, more_angles = cosines + position * half, sines + position * half
    dtype = qkv.dtype.element_ty
    if head < HEADS:
        first, second = _rotated(
            qkv + place, query_norm, angles, more_angles, mask, is_half, epsilon, HAS_NORM, half, offsets
        )
        tl.store(qkv + place, first.to(dtype), mask=mask)
        tl.store(qkv + half + place, second.to(dtype), mask=mask)
    elif head < HEADS + KV_HEADS:
        first, second = _rotated(
            qkv + place, key_norm, angles, more_angles, mask, is_half, epsilon, HAS_NORM, half, offsets
        )
        cached += (head - HEADS) * HEAD_DIM
        tl.store(keys + cached, first.to(dtype), mask=mask)
        tl.store(keys + half + cached, second.to(dtype), mask=mask)
    else:
        cached += (head - HEADS - KV_HEADS) * HEAD_DIM
        tl.store(values + cached, tl.load(qkv + place, mask=mask, other=0.0), mask=mask)
        tl.store(values + half + cached, tl.load(qkv + half + place, mask=mask, other=0.0), mask=mask)


@triton.jit
def _attend_chunks(
    qkv,
    keys,
    values,
    blocks,
    output,
    scale,
    slot_stride,
    column_stride,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    TOKENS: tl.constexpr,
    KEYS: tl.constexpr,
):
    block, kv_head = tl.program_id(0), tl.program_id(1)
    group: tl.constexpr = HEADS // KV_HEADS
    first = tl.load(blocks + 4 * block)
    count = tl.load(blocks + 4 * block + 1)
    slot = tl.load(blocks + 4 * block + 2)
    start = tl.load(blocks + 4 * block + 3)
    queries = tl.arange(0, TOKENS * GROUP)
    tokens, heads = queries // GROUP, queries % GROUP
    is_query = (tokens < count) & (heads < group)
    offsets = tl.arange(0, WIDTH)
    is_inside = offsets < HEAD_DIM
    rows = (first + tokens).to(tl.int64)
    head = kv_head * group + heads
    place = (rows * (HEADS + 2 * KV_HEADS) + head)[:, None] * HEAD_DIM + offsets[None, :]
    mask = is_query[:, None] & is_inside[None, :]
    query = tl.load(qkv + place, mask=mask, other=0.0)
    dtype = qkv.dtype.element_ty
    most = tl.full([TOKENS * GROUP], float("-inf"), tl.float32)
    weight = tl.zeros([TOKENS * GROUP], tl.float32)
    sums = tl.zeros([TOKENS * GROUP, WIDTH], tl.float32)
    base = slot.to(tl.int64) * slot_stride + kv_head * HEAD_DIM
    for begin in range(0, start + count, KEYS):
        columns = begin + tl.arange(0, KEYS)
        is_key = columns < start + count
        cached = base + columns.to(tl.int64)[:, None] * column_stride + offsets[None, :]
        is_there = is_key[:, None] & is_inside[None, :]
        key = tl.load(keys + cached, mask=is_there, other=0.0)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        scores = tl.where(columns[None, :] <= (start + tokens)[:, None], scores, float("-inf"))
        new_most = tl.maximum(most, tl.max(scores, 1))
        fading = tl.exp(most - new_most)
        weights = tl.exp(scores - new_most[:, None])
        weight = weight * fading + tl.sum(weights, 1)
        value = tl.load(values + cached, mask=is_there, other=0.0)
        sums = tl.dot(weights.to(dtype), value, acc=sums * fading[:, None], input_precision="ieee")
        most = new_most
    place = (rows * HEADS + head)[:, None] * HEAD_DIM + offsets[None, :]
    tl.store(output + place, (sums / weight[:, None]).to(output.dtype.element_ty), mask=mask)


def tokens_per_block(heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """How many neighbouring tokens of a prompt a program of `attend_chunks` takes."""
    queries = QUERIES if head_dim * dtype.itemsize <= 128 else WIDE_QUERIES
    group = int(triton.next_power_of_2(heads // kv_heads))
    return max(16 // group, queries // group, 1)


def attend_chunks(
    qkv: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor,
    slots: Tensor,
    blocks: Tensor,
    cosines: Tensor,
    sines: Tensor,
    heads: int,
    scale: float,
    norms: tuple[Tensor, Tensor] | None = None,
    epsilon: float = 0.0,
) -> Tensor:
    """Store the keys and values of any number of tokens of any slots, then attend each to its slot.

    Args:
        blocks: [blocks, 4], of at most `tokens_per_block` neighbouring tokens each: the first one's row, how many they
            are, their slot, and the first one's position.

    The others, and what it returns, are those of `attend_rows`; `qkv` is written over.
    """
    _, _, kv_heads, head_dim = keys.shape
    query_norm, key_norm = norms or (qkv, qkv)
    _rotate[(len(qkv), heads + 2 * kv_heads)](
        qkv,
        keys,
        values,
        positions,
        slots,
        cosines,
        sines,
        query_norm,
        key_norm,
        epsilon,
        keys.stride(0),
        keys.stride(1),
        HEADS=heads,
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        HALF=triton.next_power_of_2(head_dim // 2),
        HAS_NORM=norms is not None,
        num_warps=1,
    )
    output = qkv.new_empty(len(qkv), heads * head_dim)
    group = int(triton.next_power_of_2(heads // kv_heads))
    _attend_chunks[(len(blocks), kv_heads)](
        qkv,
        keys,
        values,
        blocks,
        output,
        scale,
        keys.stride(0),
        keys.stride(1),
        HEADS=heads,
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        WIDTH=max(16, triton.next_power_of_2(head_dim)),
        GROUP=group,
        TOKENS=tokens_per_block(heads, kv_heads, head_dim, qkv.dtype),
        KEYS=KEYS if qkv.dtype.itemsize == 2 else KEYS // 2,
        num_warps=4,
    )
    return output


# --- The beginning and the end ----------------------------------------------------------------------------------------


@triton.jit
def _embed(token_ids, embedding, output, SIZE: tl.constexpr, WIDTH: tl.constexpr, OVERLAPS: tl.constexpr):
    if OVERLAPS:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    is_inside = columns < SIZE
    token_id = tl.maximum(tl.load(token_ids + row), 0)
    tl.store(output + row * SIZE + columns, tl.load(embedding + token_id * SIZE + columns, mask=is_inside), is_inside)


def embed(token_ids: Tensor, embedding: Tensor) -> Tensor:
    """The rows [tokens, size] of an embedding; the first one where a token is -1, because its row is broken."""
    size = embedding.shape[1]
    output = embedding.new_empty(len(token_ids), size)
    grid = (len(token_ids), triton.cdiv(size, 1024))
    _embed[grid](token_ids, embedding, output, SIZE=size, WIDTH=1024, num_warps=4, **_overlap(output))
    return output


@triton.jit
def _most_likely(logits, tokens, vocabulary, stride, WIDTH: tl.constexpr, OVERLAPS: tl.constexpr):
    if OVERLAPS:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    best = tl.full([WIDTH], float("-inf"), tl.float32)
    where = tl.zeros([WIDTH], tl.int32)
    broken = tl.zeros([WIDTH], tl.int32)
    for first in range(0, vocabulary, WIDTH):
        places = first + columns
        values = tl.load(logits + row * stride + places, mask=places < vocabulary, other=float("-inf")).to(tl.float32)
        broken = tl.where((values != values) | (values == float("inf")), 1, broken)
        is_better = values > best
        best = tl.where(is_better, values, best)
        where = tl.where(is_better, places, where)
    most = tl.max(best, 0)
    place = tl.min(tl.where(best == most, where, vocabulary), 0)
    is_broken = (tl.max(broken, 0) > 0) | (most == float("-inf"))
    tl.store(tokens + row, tl.where(is_broken, -1, place).to(tl.int64))


def most_likely(logits: Tensor) -> Tensor:
    """The token of the largest of each row of logits [rows, vocabulary], of equal ones the first; -1 if one is broken.

    A row is broken by NaN or an infinite number, or if all its logits are -inf.
    """
    tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    if len(logits):
        rows, vocabulary = logits.shape
        _most_likely[(rows,)](
            logits, tokens, vocabulary, logits.stride(0), WIDTH=4096, num_warps=16, **_overlap(logits)
        )
    return tokens


# --- The rest ---------------------------------------------------------------------------------------------------------


@triton.jit
def _gate(gate_up, output, size, WIDTH: tl.constexpr, OVERLAPS: tl.constexpr):
    if OVERLAPS:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    is_inside = columns < size
    gate = tl.load(gate_up + row * 2 * size + columns, mask=is_inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * size + size + columns, mask=is_inside, other=0.0).to(tl.float32)
    tl.store(output + row * size + columns, (gate * tl.sigmoid(gate) * up).to(output.dtype.element_ty), mask=is_inside)


def gate(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of [rows, 2 * size]: [rows, size]."""
    rows, size = len(gate_up), gate_up.shape[1] // 2
    output = gate_up.new_empty(rows, size)
    _gate[(rows, triton.cdiv(size, 1024))](gate_up, output, size, WIDTH=1024, num_warps=4, **_overlap(gate_up))
    return output
