"""The numbers in a GGUF file's tensors: dequantized by the package `gguf`, or as they are."""

import numpy as np
import torch
from gguf import dequantize
from torch import Tensor

from inference.weights.gguf.file import Blocks

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The types of tensors that are not quantized."""


def dequantized(blocks: Blocks, dtype: torch.dtype) -> Tensor:
    """A tensor's numbers, in memory of their own."""
    if plain := PLAIN.get(blocks.kind.name):
        return torch.from_numpy(blocks.data.copy()).view(plain).reshape(blocks.shape).to(dtype)
    numbers = torch.empty(blocks.shape, dtype=dtype)
    rows = numbers.view(-1, blocks.shape[-1])
    step = max(1, 2**22 // blocks.shape[-1])  # dequantizing needs several times a piece's memory
    for begin in range(0, len(rows), step):
        with np.errstate(all="ignore"):  # a NaN in a file is found later, with its tensor's name
            piece = dequantize(blocks.data[begin : begin + step], blocks.kind)
        rows[begin : begin + step] = torch.from_numpy(piece)
    return numbers
