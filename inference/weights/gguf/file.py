"""Opens a GGUF file: its metadata, and its tensors as the blocks of bytes that the file holds.

    file = GGUFFile.open(Path("model.gguf"))
    file.metadata["general.architecture"]
    file.tensors["blk.0.attn_q.weight"].shape

What is in the blocks is the business of `numbers`. Nothing here needs torch, so that a header can be read before it is
there. The package `gguf` knows the types of tensors; its reader is not used: it makes several numpy views for
each of a vocabulary's entries, which takes seconds, and believes every count in a damaged file. Here everything is
checked against the file's size before anything is made of it, and tensors stay mapped until they are asked for.

A model that is split into `…-00001-of-00003.gguf` and so on is opened by the name of any of its parts.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from inference.weights.gguf.parts import all_parts
from inference.weights.safetensors_header import BadFile, refuse_pointer

MAGIC = b"GGUF"
OLD_MAGICS = (b"lmgg", b"fmgg", b"tjgg", b"algg")
"""How files of llama.cpp begin that are from before GGUF: models of three formats, and adapters."""
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT, LEAST_ALIGNMENT = 32, 8
MOST_DIMENSIONS = 4
LONGEST_NAME = 512
"""Characters of the name of an entry or a tensor; a longer one is a sign of damage."""
KINDS = (
    *("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL"),
    *("IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "TQ1_0", "TQ2_0", "MXFP4"),
)
"""The types of tensors that are served."""
KNOWN = ", ".join(KINDS)
REQUANTIZE = "Make another file of the model, of type Q4_K_M or Q8_0 for example, with llama.cpp's llama-quantize."

NO_TOKEN = (-1, 2**32 - 1)
"""Ids that some converters write where there is no such token: -1, also as a number without a sign."""
EMBEDDING, HEAD = "token_embd.weight", "output.weight"

STRING, ARRAY = 8, 9
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


class BadGGUF(BadFile):
    """The file is damaged, or holds something that this reader does not know."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """One tensor as the file holds it: `data` is [rows, bytes of a row], mapped and read-only."""

    name: str
    kind: GGMLQuantizationType
    shape: tuple[int, ...]  # in torch's order: [outputs, inputs]
    data: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """The metadata of a model and its tensors by name, from one file or from all the parts of a split one."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Blocks]

    @classmethod
    def open(cls, path: Path) -> "GGUFFile":
        """Read the header of a file, and of its other parts if there are any.

        Raises:
            BadGGUF: one of them cannot be read; the message names it.
        """
        first, *others = [_Header(part) for part in parts_of(path)]
        if isinstance(place := first.metadata.get("split.no"), int) and place > 0:
            raise BadGGUF(first.path, f"its split.no is {place}: so many parts come before it; expected the first one")
        tensors = first.tensors()
        for part in others:
            for name, blocks in part.tensors().items():
                if name in tensors:
                    raise BadGGUF(part.path, f"tensor {name} is in another part of the model too")
                tensors[name] = blocks
        count = first.metadata.get("split.count", 1)
        if not others and isinstance(count, int) and count > 1:
            raise BadGGUF(path, f"it is one of {count} parts; expected a name that ends in -00001-of-{count:05}.gguf")
        expected = first.metadata.get("split.tensors.count", len(tensors))
        if isinstance(expected, int) and expected != len(tensors):
            raise BadGGUF(
                path, f"its split.tensors.count is {expected}; expected {len(tensors)}, the tensors in its parts"
            )
        return cls(first.path, first.metadata, tensors)

    @property
    def architecture(self) -> str:
        return str(self.get("general.architecture", str))

    @property
    def elements(self) -> int:
        """How many numbers the tensors hold."""
        return sum(math.prod(blocks.shape) for blocks in self.tensors.values())

    @property
    def bytes(self) -> int:
        """The size of the tensors in the file."""
        return sum(blocks.data.nbytes for blocks in self.tensors.values())

    @property
    def bytes_held(self) -> int:
        """The size of what a decoder keeps of it: of an embedding that is the head as well, the rows and the matrix."""
        return self.bytes + (0 if HEAD in self.tensors else self._embedding_bytes)

    @property
    def bytes_per_step(self) -> int:
        """The size of what a step reads: all tensors but an embedding that is not the head as well."""
        return self.bytes - (self._embedding_bytes if HEAD in self.tensors else 0)

    @property
    def _embedding_bytes(self) -> int:
        return self.tensors[EMBEDDING].data.nbytes if EMBEDDING in self.tensors else 0

    @property
    def kinds(self) -> set[str]:
        """The types of the tensors."""
        return {blocks.kind.name for blocks in self.tensors.values()}

    @property
    def layers(self) -> int:
        """How many layers the file has, those that guess tokens ahead among them.

        Raises:
            BadGGUF: it does not say it, or says more than it has tensors.
        """
        layers = self.count("block_count")
        if layers > (tensors := len(self.tensors)):
            raise BadGGUF(self.path, f"{self.architecture}.block_count is {layers}, more than its {tensors} tensors")
        return layers

    def has_in_layers(self, name: str) -> bool:
        """Whether any layer has a tensor of this name."""
        return any(tensor.endswith(f".{name}") for tensor in self.tensors)

    def says(self, key: str) -> bool:
        """Whether the architecture's own metadata has a number under `key` that is not 0, or a list with one."""
        return bool(np.any(self.metadata.get(f"{self.architecture}.{key}", 0)))

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """The metadata under `key`, which must be of this kind.

        Raises:
            BadGGUF: it is of another kind, or missing and without a default.
        """
        value = self.metadata.get(key, default)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind and not (value is default and default is not None):
            name = "numbers" if isinstance(value, np.ndarray) else type(value).__name__
            came = "nothing" if value is None else f"{name} {str(value)[:40]!r}"
            raise BadGGUF(self.path, f"expected {key} to be of type {kind.__name__}, got {came}")
        return value

    def token_id(self, name: str) -> int | None:
        """The id of a special token, "bos" for one; None if the file names none.

        Raises:
            BadGGUF: it is not a number.
        """
        key = f"tokenizer.ggml.{name}_token_id"
        token_id: int | None = self.get(key, int) if key in self.metadata else None
        return None if token_id in NO_TOKEN else token_id

    def count(self, key: str, default: int | None = None) -> int:
        """A size among the architecture's own metadata. A list of one for each layer must be all the same.

        Raises:
            BadGGUF: it is missing and without a default, or no size.
        """
        sizes = set(self._sizes(key, default))
        if len(sizes) != 1:
            raise BadGGUF(self.path, f"{self.architecture}.{key} differs from layer to layer, which is not supported")
        return sizes.pop()

    def counts(self, key: str, default: int | None = None, least: int = 1) -> list[int]:
        """A size of each layer, which files have as one for all of them or as a list.

        Raises:
            BadGGUF: it is missing and without a default, no size, or a list of another length.
        """
        sizes, layers = self._sizes(key, default, least), self.layers
        if len(sizes) not in (1, layers):
            raise BadGGUF(
                self.path, f"{self.architecture}.{key} has {len(sizes)} entries; expected {layers}, one for each layer"
            )
        return sizes if len(sizes) == layers else sizes * layers

    def _sizes(self, key: str, default: int | None, least: int = 1) -> list[int]:
        full = f"{self.architecture}.{key}"
        value = self.metadata.get(full)
        sizes = [int(size) for size in value] if isinstance(value, np.ndarray) else [self.get(full, int, default)]
        if sizes and min(sizes) < least:
            raise BadGGUF(self.path, f"expected {full} to be at least {least}, got {min(sizes)}")
        return sizes


def is_gguf(path: Path) -> bool:
    """Whether a file begins as a GGUF file does, whatever its name."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def parts_of(path: Path) -> list[Path]:
    """All the files of the model that `path` is, or is a part of. Raises BadGGUF if one is missing."""
    parts = [path.with_name(name) for name in all_parts(path.name)]
    if missing := [part for part in parts if not part.is_file()]:
        raise BadGGUF(path, f"the model is split into {len(parts)} files, and {missing[0].name} is not there")
    return parts


class _Header:
    """Reads one file's header from beginning to end; every size is checked before it is believed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        refuse_pointer(path)
        if path.stat().st_size < 24:
            raise BadGGUF(path, f"expected a GGUF file, got one of {path.stat().st_size} bytes")
        self._bytes = np.memmap(path, np.uint8, "r")
        self._buffer = memoryview(self._bytes.data)
        self._at = 0
        tensors, entries = self._begin()
        self.metadata = self._metadata(entries)
        self._infos = self._tensor_infos(tensors)
        self._data_at = _aligned(self._at, self._alignment)

    def tensors(self) -> dict[str, Blocks]:
        """The tensors of this file, each checked to lie where the one before ends, as they are written."""
        expected = 0
        tensors: dict[str, Blocks] = {}
        for name, shape, kind_number, offset in self._infos:
            kind = self._kind(name, kind_number)
            block, block_bytes = GGML_QUANT_SIZES[kind]
            if len(shape) == 1 and block > 1:
                raise self._bad(f"tensor {name} is of type {kind.name}; expected F32, F16 or BF16 of a vector")
            if shape[-1] % block:
                raise self._bad(
                    f"tensor {name}, of {kind.name}, has rows of {shape[-1]}; expected a multiple of {block}"
                )
            row_bytes = shape[-1] // block * block_bytes
            size = math.prod(shape[:-1]) * row_bytes
            if offset != expected:
                raise self._bad(f"tensor {name} begins at byte {offset} of the data; expected {expected}")
            begin = self._data_at + offset
            if begin + size > len(self._bytes):
                missing = begin + size - len(self._bytes)
                raise self._bad(f"the file is cut short: tensor {name} ends {missing} bytes past its end")
            tensors[name] = Blocks(name, kind, shape, self._bytes[begin : begin + size].reshape(-1, row_bytes))
            expected = _aligned(offset + size, self._alignment)
        return tensors

    def _begin(self) -> tuple[int, int]:
        if (magic := bytes(self._take(4))) in OLD_MAGICS:
            raise self._bad("expected a GGUF file, got one of llama.cpp's format before that; convert the model again")
        if magic != MAGIC:
            raise self._bad(f"expected a GGUF file, which begins with the letters GGUF, got one that begins {magic!r}")
        version = self._number("<I")
        if version not in VERSIONS:
            known = " or ".join(map(str, VERSIONS))
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            advice = (
                f"convert it with `gguf-convert-endian {self.path.name} little`"
                if swapped in VERSIONS
                else ("convert the model again")
            )
            came = f"{swapped}, big-endian" if swapped in VERSIONS else version
            raise self._bad(f"expected GGUF version {known}, little-endian, got {came}; {advice}")
        return self._number("<Q"), self._number("<Q")

    def _metadata(self, entries: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self._name()
            if key in metadata:
                raise self._bad(f"{key} is there twice")
            metadata[key] = self._value(key, self._number("<I"))
        return metadata

    def _tensor_infos(self, count: int) -> list[tuple[str, tuple[int, ...], int, int]]:
        infos: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
        for _ in range(count):
            name = self._name()
            if name in infos:
                raise self._bad(f"tensor {name} is there twice")
            dimensions = self._number("<I")
            if not 1 <= dimensions <= MOST_DIMENSIONS:
                raise self._bad(f"tensor {name} has {dimensions} dimensions; expected 1 to {MOST_DIMENSIONS}")
            shape = struct.unpack(f"<{dimensions}Q", self._take(8 * dimensions))
            if 0 in shape:
                raise self._bad(f"tensor {name} has no elements; expected sizes above 0")
            infos[name] = (name, tuple(reversed(shape)), self._number("<I"), self._number("<Q"))
        return list(infos.values())

    def _kind(self, name: str, number: int) -> GGMLQuantizationType:
        try:
            kind = GGMLQuantizationType(number)
        except ValueError:
            raise self._bad(f"tensor {name} is of type {number}; expected one of {KNOWN}. {REQUANTIZE}") from None
        if kind.name not in KINDS:
            raise self._bad(f"tensor {name} is of type {kind.name}; expected one of {KNOWN}. {REQUANTIZE}")
        return kind

    def _value(self, key: str, kind: int) -> Any:
        if kind in SCALARS:
            return self._number(SCALARS[kind])
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            return self._array(key)
        raise self._bad(f"{key} is of a type, {kind}, that GGUF does not have")

    def _array(self, key: str) -> Any:
        """A list of strings, or an array of numbers that are still in the file."""
        kind, count = self._number("<I"), self._number("<Q")
        if kind in SCALARS:
            form = SCALARS[kind]
            return np.frombuffer(self._take(count * struct.calcsize(form)), np.dtype(form))
        if kind == STRING:
            self._room_for(8 * count)
            return [self._string() for _ in range(count)]
        raise self._bad(f"{key} is an array of type {kind}; expected numbers or strings")

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _name(self) -> str:
        """The name of an entry or of a tensor."""
        name = self._string()
        if len(name) > LONGEST_NAME:
            raise self._bad(f"expected a name before byte {self._at}, got {len(name)} characters, {name[:40]!r} first")
        return name

    def _string(self) -> str:
        text = bytes(self._take(self._number("<Q")))
        try:
            return text.decode()
        except UnicodeDecodeError:
            raise self._bad(f"expected text in UTF-8 before byte {self._at}") from None

    def _take(self, size: int) -> memoryview:
        self._room_for(size)
        self._at += size
        return self._buffer[self._at - size : self._at]

    def _room_for(self, size: int) -> None:
        if size > len(self._buffer) - self._at:
            raise self._bad(f"the file is cut short or damaged: its header asks for {size} bytes at byte {self._at}")

    @property
    def _alignment(self) -> int:
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment < LEAST_ALIGNMENT or alignment & (alignment - 1):
            raise self._bad(
                f"expected general.alignment to be a power of two, of at least {LEAST_ALIGNMENT}, got {alignment!r}"
            )
        return alignment

    def _bad(self, reason: str) -> BadGGUF:
        return BadGGUF(self.path, reason)


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
