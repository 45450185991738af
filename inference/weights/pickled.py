"""Reads the names, shapes and types of the tensors in a file of torch.save, and checks that it holds nothing else."""

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inference.weights.safetensors_header import BadFile, TensorInfo

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.bool: "BOOL",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
"""What safetensors calls the types that are told apart here."""


def read_pickle(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a file of torch.save by name.

    Raises:
        BadFile: the file is damaged, or holds something other than tensors.
    """
    with path.open("rb") as file:
        is_pickle = file.read(1) == b"\x80"  # as torch saved before it made ZIP archives
    if not is_pickle and not zipfile.is_zipfile(path):
        raise BadFile(path, "expected a file of torch.save, got one that is cut short or another kind")
    try:
        found: Any = torch.load(path, map_location="meta", weights_only=True, mmap=not is_pickle)
    except Exception as error:  # a broken pickle makes torch raise almost anything
        raise BadFile(
            path, "expected a file of torch.save with tensors and nothing else; it is damaged, or has other objects"
        ) from error
    if not isinstance(found, dict):
        raise BadFile(path, f"expected tensors by their names, got a {type(found).__name__}")
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise BadFile(path, f"expected tensors by their names, got a {type(value).__name__} under {name!r}")
    return {str(name): _info(path, tensor) for name, tensor in found.items()}


def _info(path: Path, tensor: Tensor) -> TensorInfo:
    return TensorInfo(path, NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))
