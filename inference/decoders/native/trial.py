"""Tries a library's quantized products on given rows, without the rest of a step."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from inference.decoders.native import structures
from inference.decoders.native.packing import BLOCK, INPUT_BYTES, PANEL, Packer, padded
from inference.weights.quantized import QuantizedMatrix
from interface.errors import UnsupportedModel

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02}
"""How far a product may be from the exact one, relative to the largest: inputs have eight bits in bfloat16 models."""
ROWS = (1, 2, 7)


def multiply(library: ctypes.CDLL, dtype: torch.dtype, matrices: Sequence[QuantizedMatrix], x: Tensor) -> Tensor:
    """x [rows, inputs] times matrices [outputs, inputs], one below the other, in float32: [rows, outputs]."""
    packer = Packer(library, dtype)
    packed = packer.matrix(matrices)
    threads, rows = torch.get_num_threads(), len(x)
    inputs = torch.zeros(rows, packed.inputs)
    inputs[:, : x.shape[1]] = x
    scratch = torch.zeros(padded(rows, BLOCK) * INPUT_BYTES * packed.inputs, dtype=torch.uint8)
    widened = torch.zeros(threads, packed.inputs * PANEL, dtype=dtype)
    shares = torch.zeros(threads, ctypes.sizeof(structures.Share), dtype=torch.uint8)
    step = structures.Step(
        threads=threads,
        widened_size=widened.shape[1],
        inputs=scratch.data_ptr(),
        widened=widened.data_ptr(),
        shares=shares.data_ptr(),
    )
    outputs = torch.zeros(rows, packed.panel_count * PANEL)
    library.multiply_rows_by(
        ctypes.byref(packed),
        ctypes.byref(step),
        ctypes.c_void_p(inputs.data_ptr()),
        ctypes.c_int64(rows),
        ctypes.c_void_p(outputs.data_ptr()),
    )
    return outputs[:, : sum(matrix.shape[0] for matrix in matrices)]


def check_products(library: ctypes.CDLL, dtype: torch.dtype, matrix: QuantizedMatrix) -> None:
    """Check a few products with a panel of a matrix.

    Raises:
        UnsupportedModel: they are wrong, so the compiler made an error.
    """
    some = QuantizedMatrix(matrix.format, matrix.blocks[:PANEL], matrix.inputs)
    exact = some.dequantized().double()
    generator = torch.Generator().manual_seed(0)
    for rows in ROWS:
        x = torch.randn(rows, matrix.inputs, generator=generator)
        expected = x.double() @ exact.T
        largest = expected.abs().max().clamp_min(1e-30)
        error = ((multiply(library, dtype, [some], x) - expected).abs().max() / largest).item()
        if not error <= TOLERANCE[dtype]:
            raise UnsupportedModel(
                f"Compiled here, products with matrices in {matrix.format} are wrong (by {error:.1%} of the largest). "
                f"Another compiler may help: CXX names one."
            )
