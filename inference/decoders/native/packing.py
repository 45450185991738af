"""Lays matrices out as decoder.cpp reads them, and keeps everything alive that its structures point to.

A plain matrix becomes panels of 32 outputs. A quantized one becomes strips of sixteen, which the library packs straight
from the blocks, in threads: the blocks may be a mapped file, and no other copy of them is made.
"""

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from inference.cache.pages import PAIRED_KEYS
from inference.decoders.native import structures
from inference.decoders.native.large_pages import LargePages
from inference.decoders.native.sources import STRIP
from inference.weights.formats import FORMATS
from inference.weights.memory_ahead import MemoryAhead
from inference.weights.quantized import Matrix, QuantizedMatrix, as_tensor

PANEL = 2 * STRIP
"""Outputs of a plain matrix that lie side by side."""
BLOCK = 32
"""Inputs and rows are filled up to a multiple of this."""
INPUT_BYTES = 3
"""Room for each input of a quantized product as an integer, with what goes with it (see inputs.hpp)."""
LAYOUT = {
    "outputs of a strip": STRIP,
    "outputs of a panel": PANEL,
    "rows of a block": BLOCK,
    "keys of a block in the cache": PAIRED_KEYS,
    **{
        f"bytes of a {structure.__name__}": ctypes.sizeof(structure)
        for structure in (
            structures.Strip,
            structures.Matrix,
            structures.Layer,
            structures.Group,
            structures.Model,
            structures.Step,
            structures.Share,
        )
    },
}
"""What C++ must have alike, in the order of `layout_sizes` in decoder.cpp."""


def check_layout(library: ctypes.CDLL) -> None:
    """Check that a library reads what is packed here as it lies, since C++ has sizes of its own.

    Raises:
        AssertionError: a size was changed on one side only.
    """
    sizes = (ctypes.c_int64 * len(LAYOUT)).in_dll(library, "layout_sizes")
    differing = [
        f"{name} ({here}, {there} in C++)"
        for (name, here), there in zip(LAYOUT.items(), sizes, strict=True)
        if here != there
    ]
    assert not differing, f"expected the same sizes in packing.py and in C++, got others: {', '.join(differing)}"
    if hasattr(library, "input_bytes"):  # it multiplies with quantized matrices
        assert ctypes.c_int64.in_dll(library, "input_bytes").value == INPUT_BYTES


class Packer:
    """Packs for one library. Everything that an address points to lives as long as this object."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype, ahead: MemoryAhead | None = None) -> None:
        check_layout(library)
        self.held: list[Tensor | NDArray[np.generic]] = []
        self._library = library
        self._dtype = dtype
        self._threads = torch.get_num_threads()
        self._pages = LargePages(ahead)

    def matrix(
        self, parts: Sequence[Matrix], is_interleaved: bool = False, biases: Sequence[Tensor | None] = ()
    ) -> structures.Matrix:
        """Matrices of the same inputs as one: one below the other, or sixteen outputs of each in turn.

        `biases` are those of each part if they are interleaved, or all in one.
        """
        quantized = [part for part in parts if isinstance(part, QuantizedMatrix)]
        if len(quantized) == len(parts) and all(len(part.blocks) % STRIP == 0 for part in quantized[:-1]):
            matrix = self._strips(quantized, is_interleaved)
        else:
            matrix = self._panels([as_tensor(part, self._dtype) for part in parts], is_interleaved)
        if found := [bias.float() for bias in biases if bias is not None]:
            assert not is_interleaved or len(found) == len(parts)
            together = _in_turn([bias[:, None] for bias in found])[:, 0] if is_interleaved else found[0]
            matrix.bias = self.hold(F.pad(together, (0, matrix.panel_count * PANEL - len(together))))
        return matrix

    def embedding(self, embedding: Matrix) -> dict[str, int]:
        """The fields of a `structures.Model` that say where a token's row is.

        Keeps a copy. A row that was read from the file as a token comes would be another one once the file has been
        written over, and if the file were cut short, the system would end the process.
        """
        if isinstance(embedding, QuantizedMatrix):
            rows = self._pages.take(embedding.blocks.nbytes).reshape(embedding.blocks.shape)
            np.copyto(rows, embedding.blocks)
            return {
                "embedding_rows": self.hold_array(rows),
                "embedding_row_size": embedding.blocks.shape[1],
                "embedding_format": FORMATS[embedding.format].number,
            }
        return {"embedding": self.hold(embedding.to(self._dtype, copy=True))}

    def hold_floats(self, weight: Tensor) -> int:
        """Keep a copy: the model's own tensor would keep the whole file mapped that it was read from."""
        return self.hold(weight.to(torch.float32, copy=True))

    def hold(self, tensor: Tensor) -> int:
        """Keep a tensor where it is, and return its address."""
        held = tensor.detach().contiguous()
        self.held.append(held)
        return int(held.data_ptr())

    def hold_array(self, array: NDArray[np.generic]) -> int:
        self.held.append(array)
        return array.ctypes.data

    def release_unused(self) -> None:
        """Let the system take the memory that was fetched ahead and is not needed."""
        self._pages.release_rest()

    def _panels(self, parts: Sequence[Tensor], is_interleaved: bool) -> structures.Matrix:
        weight = _in_turn(parts) if is_interleaved else torch.cat(list(parts))
        outputs, inputs = (padded(size, to) for size, to in zip(weight.shape, (PANEL, BLOCK), strict=True))
        filled = F.pad(weight, (0, inputs - weight.shape[1], 0, outputs - weight.shape[0]))
        if self._dtype == torch.bfloat16:
            # Two inputs' weights stay side by side: as one number, they move together.
            filled = filled.view(torch.int32)
        panels = filled.view(outputs // PANEL, PANEL, -1).transpose(1, 2)
        place = torch.from_numpy(self._pages.take(panels.nbytes)).view(panels.dtype).view(panels.shape)
        return structures.Matrix(panels=self.hold(place.copy_(panels)), inputs=inputs, panel_count=outputs // PANEL)

    def _strips(self, parts: Sequence[QuantizedMatrix], is_interleaved: bool) -> structures.Matrix:
        inputs = parts[0].padded_inputs
        tables = [_strip_table(part) for part in parts]
        strips = np.stack(tables, axis=1).reshape(-1, 4) if is_interleaved else np.concatenate(tables)
        if len(strips) % 2:
            strips = np.concatenate([strips, strips[-1:] * [1, 1, 0, 1]])  # a panel's other half, without rows
        numbers = strips[:, 0].tolist()
        sizes = {number: self._library.strip_size(*_int64(number, inputs)) for number in set(numbers)}
        ends = np.cumsum([sizes[number] for number in numbers])
        packed = self._pages.take(int(ends[-1]))
        strips[:, 3] = self.hold_array(packed) + np.concatenate([[0], ends[:-1]])
        address = self.hold_array(strips)
        self._library.pack_strips(ctypes.c_void_p(address), *_int64(len(strips), inputs, self._threads))
        scaled = max(FORMATS[part.format].inputs for part in parts)
        return structures.Matrix(strips=address, inputs=inputs, panel_count=len(strips) // 2, scaled_inputs=scaled)


def padded(size: int, to: int) -> int:
    """The next multiple of `to`."""
    return -(-size // to) * to


def _int64(*numbers: int) -> tuple[ctypes.c_int64, ...]:
    return tuple(ctypes.c_int64(number) for number in numbers)


def _strip_table(matrix: QuantizedMatrix) -> NDArray[np.int64]:
    """The strips of a matrix as structures.hpp has them: format, address of the blocks, rows, and no place yet."""
    outputs, row_bytes = matrix.blocks.shape
    first = np.arange(0, outputs, STRIP, dtype=np.int64)
    return np.stack(
        [
            np.full_like(first, FORMATS[matrix.format].number),
            matrix.blocks.ctypes.data + first * row_bytes,
            np.minimum(STRIP, outputs - first),
            np.zeros_like(first),
        ],
        axis=1,
    )


def _in_turn(weights: Sequence[Tensor]) -> Tensor:
    """Sixteen outputs of each in turn."""
    return torch.stack([_in_rows_of(weight, STRIP) for weight in weights], dim=1).flatten(0, 2)


def _in_rows_of(weight: Tensor, size: int) -> Tensor:
    """[outputs, inputs] as [outputs / size, size, inputs], filled up with zeros."""
    outputs, inputs = weight.shape
    return F.pad(weight, (0, 0, 0, padded(outputs, size) - outputs)).view(-1, size, inputs)
