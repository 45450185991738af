"""Products with one row: what a step of one stream is made of."""

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from inference.decoders.gpu.kernels.overlap import overlap


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
    flags = {"IS_GATED": is_gated, "IS_ADDED": add_to is not None}
    size = {"OUTPUTS": rows, "INPUTS": columns, "num_warps": warps}
    grid = (triton.cdiv(outputs, rows),)
    _multiply[grid](x, norm, weight, bias, output, outputs, epsilon, inputs, **flags, **size, **overlap(x))
    return output


def tile(inputs: int, is_gated: bool) -> tuple[int, int, int]:
    """How many outputs and inputs a program of `_multiply` holds at once, and in how many warps.

    So many that a program asks for 8 to 32 KB before it waits for any of it; measured on an H100.
    """
    if inputs > 4096:
        return 16, 1024, 8
    columns = min(1024 if is_gated else 2048, int(triton.next_power_of_2(inputs)))
    return (2, columns, 4) if is_gated else (4, columns, 8)


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
    places = weight + rows[:, None] * inputs
    sums, up_sums, squares = _sums(x, norm, places, is_row, outputs * inputs, inputs, IS_GATED, INPUTS, OVERLAPS)
    result = tl.sum(sums, 1)
    scale = 1.0
    if norm is not None:
        scale = tl.rsqrt(tl.sum(squares, 0) / inputs + epsilon)
    result *= scale
    if bias is not None:
        result += tl.load(bias + rows, mask=is_row, other=0.0).to(tl.float32)
    if IS_GATED:
        result = result * tl.sigmoid(result) * (tl.sum(up_sums, 1) * scale)
    if IS_ADDED:
        result += tl.load(output + rows, mask=is_row, other=0.0).to(tl.float32)
    tl.store(output + rows, result.to(output.dtype.element_ty), mask=is_row)


@triton.jit
def _sums(
    x,
    norm,
    places,  # [OUTPUTS, 1]: where the weights of each output begin
    is_row,
    up,  # how far behind them those of its up projection do
    inputs: tl.constexpr,
    IS_GATED: tl.constexpr,
    INPUTS: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """The sums [OUTPUTS, INPUTS] of products with every so many inputs, of gate and up, and the inputs' squares."""
    columns = tl.arange(0, INPUTS)
    is_inside = is_row[:, None] & (columns < inputs)[None, :]
    # Weights do not depend on the kernel before this one: the first of them are on their way before its end.
    weights = tl.load(places + columns[None, :], mask=is_inside, other=0.0)
    up_weights = weights
    if IS_GATED:
        up_weights = tl.load(places + columns[None, :] + up, mask=is_inside, other=0.0)
    if OVERLAPS:
        gdc_wait()
    values, squares = _inputs(x, norm, columns, inputs)
    sums = weights.to(tl.float32) * values[None, :]
    up_sums = sums
    if IS_GATED:
        up_sums = up_weights.to(tl.float32) * values[None, :]
    for first in tl.static_range(INPUTS, inputs, INPUTS):
        more = first + columns
        is_there = is_row[:, None] & (more < inputs)[None, :]
        more_weights = tl.load(places + more[None, :], mask=is_there, other=0.0).to(tl.float32)
        if IS_GATED:
            more_up_weights = tl.load(places + more[None, :] + up, mask=is_there, other=0.0).to(tl.float32)
        more_values, more_squares = _inputs(x, norm, more, inputs)
        squares += more_squares
        sums += more_weights * more_values[None, :]
        if IS_GATED:
            up_sums += more_up_weights * more_values[None, :]
    return sums, up_sums, squares


@triton.jit
def _inputs(x, norm, columns, inputs: tl.constexpr):
    """Some inputs, times the weights of their norm if they have one; and their squares without these."""
    is_column = columns < inputs
    values = tl.load(x + columns, mask=is_column, other=0.0).to(tl.float32)
    squares = values * values
    if norm is not None:
        values *= tl.load(norm + columns, mask=is_column, other=0.0).to(tl.float32)
    return values, squares
