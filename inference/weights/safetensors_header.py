"""Reads the header of a safetensors file, and checks that the file is complete, without reading the tensors."""

import codecs
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interface.errors import LoadError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LONGEST_HEADER = 100_000_000
BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32,
    "U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "C64": 64, "F4": 4,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class BadFile(LoadError):
    """A file that cannot be used; the message begins with its path, and is one line whatever is in the file."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {_in_one_line(reason)}")


def _in_one_line(text: str) -> str:
    """The text with its control characters as escapes."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor's type and shape, from the header."""

    path: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def refuse_pointer(path: Path) -> None:
    """Check that a file is not a pointer of Git LFS, as a clone without Git LFS has it.

    Raises:
        BadFile: it is a pointer.
    """
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise BadFile(path, "this is a pointer of Git LFS, not the file itself; run `git lfs pull` in its folder")


def refuse_bytes(path: Path) -> None:
    """Check that a file is a text, and not a pointer to one.

    Raises:
        BadFile: it is a pointer of Git LFS, or not in UTF-8.
    """
    refuse_pointer(path)
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError:
        raise BadFile(path, "expected a text, got bytes that are not UTF-8") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        BadFile: the file is not JSON, or not an object.
    """
    refuse_pointer(path)
    text = path.read_bytes()
    if not text.strip():
        raise BadFile(path, "expected a JSON object, got an empty file")
    if text.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise BadFile(
            path, "expected a JSON object in UTF-8, got a byte order mark first; save it again as UTF-8 without one"
        )
    try:
        found = json.loads(text)
    except UnicodeDecodeError:
        raise BadFile(path, "expected a JSON object, got bytes that are not UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BadFile(path, f"expected a JSON object, but it is damaged or cut short at {where}") from None
    except (RecursionError, ValueError):  # a thousand brackets, a number of ten thousand digits
        raise BadFile(path, "expected a JSON object, got one that is nested too deeply or has absurd numbers") from None
    if not isinstance(found, dict):
        raise BadFile(path, f"expected a JSON object, got a {type(found).__name__}")
    return found


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name.

    Raises:
        BadFile: the file is cut short or damaged.
    """
    refuse_pointer(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        beginning = file.read(8)
        length = struct.unpack("<Q", beginning)[0] if len(beginning) == 8 else -1
        if not 0 < length <= min(LONGEST_HEADER, size - 8):
            raise BadFile(
                path, f"expected a safetensors file, got one of {size} bytes that is cut short or another kind"
            )
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise BadFile(path, "the header of this safetensors file is damaged")
    header.pop("__metadata__", None)
    tensors, ends = {}, [0]
    for name, entry in header.items():
        tensors[name], end = _tensor(path, name, entry)
        ends.append(end)
    if max(ends) != size - 8 - length:
        raise BadFile(
            path,
            f"the file is cut short or damaged: its header describes {max(ends)} bytes of tensors, it holds "
            f"{size - 8 - length}",
        )
    return tensors


def _tensor(path: Path, name: str, entry: Any) -> tuple[TensorInfo, int]:
    """Read a tensor's entry in the header, and where its bytes end."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]}:
            sizes = [size for size in shape if type(size) is int and size >= 0]
            if dtype not in BITS:
                raise BadFile(path, f"tensor {name} is of type {dtype}, which this server does not know")
            if len(sizes) == len(shape) and begin >= 0 and (end - begin) * 8 == math.prod(sizes) * BITS[dtype]:
                return TensorInfo(path, dtype, tuple(sizes)), end
    raise BadFile(path, f"the header of this safetensors file is damaged: its entry for tensor {name} is wrong")
