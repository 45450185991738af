"""Matrices in quantized blocks, as in GGUF files: codes of a few bits, and a scale for each small group of them.

`dequantized` returns plain numbers, for decoders that do not read blocks and for tests; they are those of the package
`gguf`, bit for bit. `quantize` makes quantized matrices from plain ones.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from inference.weights.formats import FORMATS

GROUP = 32
"""Inputs that share a scale in the formats that `quantize` makes."""
ROWS_AT_ONCE = 512
"""Rows that are quantized at a time, as that takes several times their memory."""
LARGEST_SCALE = 65504.0
"""Scales are float16."""
LARGEST_POWER = 128 + 15
"""The exponent of the largest power of two in float16, as MXFP4 has it."""


@dataclass(frozen=True, slots=True)
class QuantizedMatrix:
    """A matrix [outputs, inputs]; the last block of a row may reach past the inputs, and holds zeros there."""

    format: str
    blocks: NDArray[np.uint8]  # [outputs, bytes of a row]; possibly a file that is mapped
    inputs: int

    def __post_init__(self) -> None:
        kind = FORMATS[self.format]
        expected = -(-self.inputs // kind.inputs) * kind.bytes
        if self.blocks.ndim != 2 or self.blocks.shape[1] != expected:
            raise ValueError(
                f"expected rows of {expected} bytes for {self.inputs} inputs in {self.format}, got {self.blocks.shape}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.blocks), self.inputs

    @property
    def padded_inputs(self) -> int:
        kind = FORMATS[self.format]
        return -(-self.inputs // kind.inputs) * kind.inputs

    def is_finite(self) -> bool:
        """Whether all of its scales are numbers in float16."""
        kind = FORMATS[self.format]
        blocks = self.blocks.reshape(-1, kind.bytes)
        if kind.has_power:
            return not (blocks[:, 0] > LARGEST_POWER).any()
        exponents = (blocks[:, at + 1] & 0x7C for at in kind.halves)  # of float16; all ones: infinite, or no number
        return not any((part == 0x7C).any() for part in exponents)

    def dequantized(self) -> Tensor:
        """The matrix as float32."""
        from gguf import GGMLQuantizationType, dequantize

        numbers = dequantize(self.blocks, GGMLQuantizationType[self.format])
        return torch.from_numpy(numbers)[:, : self.inputs]


Matrix = Tensor | QuantizedMatrix


def as_tensor(matrix: Matrix, dtype: torch.dtype) -> Tensor:
    """Return a matrix in plain numbers."""
    return (matrix.dequantized() if isinstance(matrix, QuantizedMatrix) else matrix).to(dtype)


def rows(matrix: Matrix, which: slice | Tensor) -> Matrix:
    """Some rows of a matrix: a slice is a view of them, numbers in any order are a copy."""
    if isinstance(matrix, QuantizedMatrix):
        numbers = which if isinstance(which, slice) else which.numpy()
        return QuantizedMatrix(matrix.format, matrix.blocks[numbers], matrix.inputs)
    return matrix[which]


def quantize(weight: Tensor, kind: str) -> QuantizedMatrix:
    """Quantize a weight [outputs, inputs] in groups of 32 inputs, so that an outlier coarsens only its own group.

    int8 is Q8_0: codes from -127 to 127 times a scale. int4 is Q4_1: codes from 0 to 15 times a scale, plus a minimum.

    Raises:
        ValueError: the weights are too large for a scale of 16 bits, or not numbers.
    """
    inputs = weight.shape[1]
    largest = weight.abs().max().item()
    if not largest < LARGEST_SCALE:
        raise ValueError(f"expected weights below {LARGEST_SCALE:g}, got {largest:g}")
    format, make = QUANTIZERS[kind]
    pieces = [
        make(F.pad(rows.float(), (0, -inputs % GROUP)).view(len(rows), -1, GROUP)).flatten(1)
        for rows in torch.split(weight, ROWS_AT_ONCE)
    ]
    return QuantizedMatrix(format, torch.cat(pieces).numpy(), inputs)


def _q8_0(groups: Tensor) -> Tensor:
    scales = (groups.abs().amax(-1, keepdim=True) / 127).half()
    codes = (groups / _divisor(scales)).round().clamp(-127, 127).to(torch.int8)
    return torch.cat([scales.view(torch.uint8), codes.view(torch.uint8)], dim=-1)


def _q4_1(groups: Tensor) -> Tensor:
    scales, minimums, codes = _least_squares(groups)
    nibbles = codes.to(torch.uint8)
    packed = nibbles[..., : GROUP // 2] | nibbles[..., GROUP // 2 :] << 4
    return torch.cat([scales.view(torch.uint8), minimums.view(torch.uint8), packed], dim=-1)


def _least_squares(groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scales and minimums [..., 1] in float16, and the codes, with the smallest squared error of a few attempts.

    The first attempt spans the group's range. Each later one spans less, which costs its outliers and gains for the
    rest, and fits scale and minimum to the codes that this gives.
    """
    attempts = [_attempt(groups, span) for span in (1.0, 0.95, 0.9, 0.85, 0.8)]
    errors = [
        (codes * scales.float() + minimums.float() - groups).square().sum(-1, keepdim=True)
        for scales, minimums, codes in attempts
    ]
    best = torch.stack(errors).argmin(0, keepdim=True)
    scales, minimums, codes = (torch.stack(parts) for parts in zip(*attempts, strict=True))
    chosen = codes.gather(0, best.expand(1, *groups.shape))
    return scales.gather(0, best)[0], minimums.gather(0, best)[0], chosen[0]


def _attempt(groups: Tensor, span: float) -> tuple[Tensor, Tensor, Tensor]:
    lowest, highest = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scales = (highest - lowest) * span / 15
    minimums = (highest + lowest) / 2 - scales * 7.5
    if span < 1:
        scales, minimums = _fitted(groups, _codes(groups, scales, minimums))
    rounded = scales.half(), minimums.half()
    return *rounded, _codes(groups, *(part.float() for part in rounded))


def _fitted(groups: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """The line through the codes that comes nearest to the weights."""
    code_mean, mean = codes.mean(-1, keepdim=True), groups.mean(-1, keepdim=True)
    deviations = codes - code_mean
    variance = deviations.square().sum(-1, keepdim=True)
    scales = (deviations * (groups - mean)).sum(-1, keepdim=True) / variance.clamp_min(1e-9)
    return scales, mean - scales * code_mean


def _codes(groups: Tensor, scales: Tensor, minimums: Tensor) -> Tensor:
    return ((groups - minimums) / _divisor(scales)).round().clamp(0, 15)


def _divisor(scales: Tensor) -> Tensor:
    """A scale to divide by: a group of nothing but zeros, or of one value, has a scale of zero."""
    return torch.where(scales == 0, 1, scales.float())


QUANTIZERS: Mapping[str, tuple[str, Callable[[Tensor], Tensor]]] = {"int8": ("Q8_0", _q8_0), "int4": ("Q4_1", _q4_1)}
