"""Quantized matrices with random blocks, and libraries that compute with their formats."""

import ctypes
import os
from functools import cache

import numpy as np
import torch

from inference.decoders.native.decoder import build_for
from inference.weights.formats import FORMATS
from inference.weights.llama import Llama, Sizes
from inference.weights.quantized import QuantizedMatrix


def random_matrix(format: str, outputs: int, blocks: int, seed: int = 0) -> QuantizedMatrix:
    """A matrix of random codes and small scales; scales in float16 have either sign, or are zero."""
    draw, kind = np.random.default_rng(seed), FORMATS[format]
    made = draw.integers(0, 256, (outputs, blocks, kind.bytes), dtype=np.uint8)
    if kind.has_power:
        made[:, :, 0] = draw.integers(104, 126, made.shape[:2])
    for at in kind.halves:
        numbers = draw.normal(0, 0.02, (outputs, blocks, 1)).astype(np.float16)
        numbers[draw.random(numbers.shape) < 0.05] = 0
        numbers[draw.random(numbers.shape) < 0.05] = 6e-8  # the smallest there is
        made[:, :, at : at + 2] = numbers.view(np.uint8)
    return QuantizedMatrix(format, made.reshape(outputs, -1), blocks * kind.inputs)


@cache
def library_for(dtype: torch.dtype, formats: tuple[str, ...] = tuple(FORMATS), flags: str = "") -> ctypes.CDLL:
    """The decoder in C++ for models with matrices of these formats; CXXFLAGS must be `flags` the first time."""
    assert os.environ.get("CXXFLAGS", "") == flags
    nothing = torch.empty(0)
    sizes = Sizes(heads=2, kv_heads=1, head_dim=32, epsilon=1e-5, scale=1.0)
    model = Llama(sizes, dtype, nothing, [], nothing, nothing)
    return build_for(model, formats)
