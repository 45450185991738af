"""Quantized matrices hold GGUF's own numbers, and a row's products do not depend on the other rows."""

import ctypes
import platform
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.decoders.native import sources
from inference.decoders.native.packing import LAYOUT, Packer
from inference.decoders.native.trial import multiply
from inference.tensor_thread import on_tensor_thread
from inference.weights.formats import FORMATS
from inference.weights.quantized import QuantizedMatrix
from tests.support.native_models import INSTRUCTIONS
from tests.support.quantized_matrices import library_for, random_matrix

PRECISIONS = {"bfloat16": torch.bfloat16, "float32": torch.float32}
ERROR = {torch.bfloat16: 0.008, torch.float32: 1e-6}
"""Of an output, relative to the lengths of its row of inputs and its row of weights: inputs have eight bits in
bfloat16 models, so each is off by at most a 254th of the largest of its 32, in the formats in "K" by a 127th."""
ROWS = [1, 2, 3, 5, 8, 11, 12, 13, 16, 24, 25, 40, 75]
OUTPUTS = 83  # fills neither a strip nor a panel
LESS = {"AVX-512 without VNNI": "-mno-avx512vnni"} | {
    name: flags for name, flags in INSTRUCTIONS.items() if flags.startswith("-march")
}
"""Of what processors have, fewer instructions than this one."""
pytestmark = pytest.mark.timeout(300)  # a busy machine compiles slowly


def own_numbers(matrix: QuantizedMatrix) -> NDArray[np.float32]:
    numbers: NDArray[np.float32] = gguf.dequantize(matrix.blocks, gguf.GGMLQuantizationType[matrix.format])
    return numbers


def widened(matrix: QuantizedMatrix) -> NDArray[np.float32]:
    """The decoder's matrix as floats [outputs, inputs]."""
    library = library_for(torch.float32)
    packer = Packer(library, torch.float32)
    packed = packer.matrix([matrix])
    strips = []
    for strip in range(2 * packed.panel_count):
        numbers = np.zeros((matrix.padded_inputs, 16), dtype=np.float32)
        address = ctypes.c_void_p(packed.strips + strip * 32)
        library.widen(address, ctypes.c_int64(matrix.padded_inputs), ctypes.c_void_p(numbers.ctypes.data))
        strips.append(numbers.T)
    return np.concatenate(strips)[: matrix.shape[0]]


@pytest.mark.parametrize("format", FORMATS)
def test_its_block_sizes_are_ggufs(format: str) -> None:
    kind = FORMATS[format]
    number = gguf.GGMLQuantizationType[format]
    assert (kind.number, (kind.inputs, kind.bytes)) == (number.value, gguf.GGML_QUANT_SIZES[number])


@pytest.mark.parametrize("format", FORMATS)
def test_a_strip_takes_as_many_bytes_as_its_sixteen_rows_in_the_file(format: str) -> None:
    """But for a few scales: MXFP4's of one byte becomes a float16, and those of six bits get a byte each."""
    kind, blocks = FORMATS[format], 8
    size = library_for(torch.float32).strip_size(ctypes.c_int64(kind.number), ctypes.c_int64(blocks * kind.inputs))
    assert size == 16 * blocks * (kind.bytes + {"MXFP4": 1, "Q3_K": 4, "IQ4_XS": 2}.get(format, 0))


@pytest.mark.parametrize("size", LAYOUT)
def test_a_size_that_is_another_one_in_python_than_in_cpp_is_noticed(
    size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LAYOUT, size, LAYOUT[size] + 1)
    with pytest.raises(AssertionError, match=size):
        Packer(library_for(torch.float32), torch.float32)


@pytest.mark.parametrize("format", FORMATS)
def test_its_numbers_are_ggufs_bit_for_bit_dequantized_packed_and_looked_up(format: str) -> None:
    matrix = random_matrix(format, OUTPUTS, 3)
    expected = own_numbers(matrix)
    assert np.array_equal(matrix.dequantized().numpy(), expected)
    assert np.array_equal(widened(matrix), expected)
    row = np.zeros(matrix.inputs, dtype=np.float32)
    for output in (0, OUTPUTS - 1):
        library_for(torch.float32).read_blocks(
            ctypes.c_int64(FORMATS[format].number),
            ctypes.c_void_p(matrix.blocks[output].ctypes.data),
            ctypes.c_int64(matrix.inputs),
            ctypes.c_void_p(row.ctypes.data),
        )
        assert np.array_equal(row, expected[output])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_product_is_exact_but_for_the_rounding_of_its_inputs(format: str, precision: str) -> None:
    dtype = PRECISIONS[precision]
    matrix = random_matrix(format, OUTPUTS, 6, seed=1)
    x = torch.randn(75, matrix.inputs, generator=torch.Generator().manual_seed(2))
    x[:, ::97] *= 30  # outliers
    check_product(matrix, x, on_tensor_thread(lambda: multiply(library_for(dtype), dtype, [matrix], x)), dtype)


def check_product(matrix: QuantizedMatrix, x: Tensor, found: Tensor, dtype: torch.dtype) -> None:
    exact = matrix.dequantized().double()
    lengths = x.double().norm(dim=1)[:, None] * exact.norm(dim=1)
    assert ((found - x.double() @ exact.T).abs() / lengths).max().item() < ERROR[dtype]


@pytest.mark.parametrize("format", FORMATS)
def test_a_large_input_makes_only_those_near_it_coarser(format: str) -> None:
    matrix = random_matrix(format, OUTPUTS, 1536 // FORMATS[format].inputs, seed=5)
    small = torch.randn(matrix.inputs, generator=torch.Generator().manual_seed(6)).view(-1, 256)
    small[:, :32] = 0
    large = torch.zeros_like(small)
    large[:, :32] = 64 * torch.rand(32, generator=torch.Generator().manual_seed(7))
    x = torch.stack([large.flatten(), (large + small).flatten()])
    found = on_tensor_thread(lambda: multiply(library_for(torch.bfloat16), torch.bfloat16, [matrix], x))
    exact = matrix.dequantized() @ small.flatten()
    error = (found[1] - found[0] - exact).abs() / (small.norm() * matrix.dequantized().norm(dim=1))
    assert error.max().item() < 0.003  # with one scale for 256 it would be over 0.006


@pytest.mark.timeout(600)  # a busy machine compiles slowly
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these instructions are those of x86-64")
@pytest.mark.parametrize("flags", LESS.values(), ids=LESS)
def test_a_product_is_the_same_on_a_processor_that_has_less(flags: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXXFLAGS", flags)
    formats = ("Q4_1", "MXFP4", "Q2_K", "Q4_K", "Q6_K", "IQ4_XS")
    library = library_for(torch.bfloat16, formats, flags)
    for format in formats:
        matrix = random_matrix(format, OUTPUTS, 6, seed=1)
        x = torch.randn(13, matrix.inputs, generator=torch.Generator().manual_seed(2))
        found = on_tensor_thread(partial(multiply, library, torch.bfloat16, [matrix], x))
        check_product(matrix, x, found, torch.bfloat16)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_row_has_the_same_bits_with_any_number_of_others(format: str, precision: str) -> None:
    dtype = PRECISIONS[precision]
    library = library_for(dtype)
    matrix = random_matrix(format, OUTPUTS, 6, seed=3)
    x = torch.randn(max(ROWS), matrix.inputs, generator=torch.Generator().manual_seed(4))
    alone = torch.cat([on_tensor_thread(partial(multiply, library, dtype, [matrix], row[None])) for row in x])
    for rows in ROWS:
        together = on_tensor_thread(partial(multiply, library, dtype, [matrix], x[:rows]))
        assert torch.equal(together, alone[:rows]), rows
        last = on_tensor_thread(partial(multiply, library, dtype, [matrix], x[-rows:]))
        assert torch.equal(last, alone[-rows:]), rows


@pytest.mark.parametrize("family", [25, 26])
def test_a_product_has_the_same_bits_whichever_way_is_best_on_a_processor(
    family: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats = ("Q4_1", "Q5_K", "Q6_K", "IQ4_XS")
    here = library_for(torch.bfloat16)
    listed = tmp_path / "cpuinfo"
    listed.write_text(f"vendor_id\t: AuthenticAMD\ncpu family\t: {family}\nmodel\t\t: 17\n")
    monkeypatch.setattr(sources, "CPUINFO", listed)
    there = library_for.__wrapped__(torch.bfloat16, formats)
    for format in formats:
        matrix = random_matrix(format, OUTPUTS, 6, seed=3)
        x = torch.randn(max(ROWS), matrix.inputs, generator=torch.Generator().manual_seed(4))
        for rows in ROWS:
            expected = on_tensor_thread(partial(multiply, here, torch.bfloat16, [matrix], x[:rows]))
            found = on_tensor_thread(partial(multiply, there, torch.bfloat16, [matrix], x[:rows]))
            assert torch.equal(found, expected), (format, rows)


@pytest.mark.parametrize("rows", [5, 13, 40])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_product_has_the_same_bits_with_any_number_of_threads(precision: str, rows: int) -> None:
    dtype = PRECISIONS[precision]
    library, matrix = library_for(dtype), random_matrix("Q4_K", 7 * OUTPUTS, 6, seed=9)
    x = torch.randn(rows, matrix.inputs, generator=torch.Generator().manual_seed(10))

    def with_threads(threads: int) -> Tensor:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return multiply(library, dtype, [matrix], x)
        finally:
            torch.set_num_threads(before)

    expected = on_tensor_thread(partial(with_threads, 1))
    for threads in (2, 3):
        assert torch.equal(on_tensor_thread(partial(with_threads, threads)), expected), threads


def test_formats_of_32_and_of_256_weights_can_be_in_one_matrix() -> None:
    library, inputs = library_for(torch.bfloat16), 1536
    matrices = [
        random_matrix(format, 48, inputs // FORMATS[format].inputs) for format in ("Q4_K", "Q8_0", "Q4_1", "Q6_K")
    ]
    x = torch.randn(17, inputs, generator=torch.Generator().manual_seed(8))
    found = on_tensor_thread(lambda: multiply(library, torch.bfloat16, matrices, x))
    for matrix, part in zip(matrices, found.chunk(len(matrices), dim=1), strict=True):
        check_product(matrix, x, part, torch.bfloat16)
    alone = [on_tensor_thread(partial(multiply, library, torch.bfloat16, matrices, row[None])) for row in x]
    assert torch.equal(torch.cat(alone), found)


@pytest.mark.parametrize("format", ["Q4_0", "Q4_K", "Q6_K"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_row_that_is_not_numbers_spoils_itself_alone(wrong: float, format: str) -> None:
    library = library_for(torch.bfloat16)
    matrix = random_matrix(format, OUTPUTS, 6)
    x = torch.randn(5, matrix.inputs, generator=torch.Generator().manual_seed(5))
    expected = on_tensor_thread(lambda: multiply(library, torch.bfloat16, [matrix], x))
    x[2, 17] = wrong
    found = on_tensor_thread(lambda: multiply(library, torch.bfloat16, [matrix], x))
    assert not found[2].isfinite().any()
    assert torch.equal(found[[0, 1, 3, 4]], expected[[0, 1, 3, 4]])
