"""The weights of the model in a GGUF file, under the names that transformers has for them.

llama.cpp calls everything by other names, and changes some weights when it converts a model. That is undone here as the
`Architecture` says: rows of queries and keys may be in another order (so that neighbours are rotated together, not
halves), norms may have 1 added, and experts may be cut differently.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from gguf import GGMLQuantizationType
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedConfig

from inference.weights.gguf.architecture import Architecture, as_it_is
from inference.weights.gguf.architectures import architecture_of
from inference.weights.gguf.file import EMBEDDING, HEAD, BadGGUF, Blocks, GGUFFile
from inference.weights.gguf.numbers import dequantized
from inference.weights.gguf.rope import ROPE_FACTORS
from inference.weights.weight_checks import is_zero


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight of the model: what it is made of in the file, and what has to be undone."""

    parts: tuple[Blocks, ...]
    make: Callable[..., Tensor] = as_it_is
    offset: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Raises RuntimeError, IndexError or ValueError if the parts do not fit each other."""
        return tuple(self.make(*(torch.empty(part.shape, device="meta") for part in self.parts)).shape)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        if self.offset:
            return (dequantized(self.parts[0], torch.float32) - self.offset).to(dtype)
        return self.make(*(dequantized(part, dtype) for part in self.parts))


class Lazy:
    """A weight as transformers' loader takes it: made when it is indexed, matrices in the model's precision at once.

    Vectors are in float32, in which transformers keeps a few, such as what corrects a router; it rounds the others.
    """

    def __init__(self, weight: Weight, dtype: torch.dtype) -> None:
        self.shape = weight.shape
        self._weight = weight
        self._dtype = torch.float32 if math.prod(self.shape[:-1]) == 1 else dtype

    def __getitem__(self, _: object) -> Tensor:
        return self._weight.dequantized(self._dtype)


def model_weights(file: GGUFFile, config: PreTrainedConfig) -> dict[str, Weight]:
    """The weights under transformers' names; a tensor that has none keeps its own, which the model then refuses."""
    architecture = architecture_of(file)
    heads = _heads(config) if architecture.has_paired_rows else {}
    weights = _made(file, architecture, config)
    used = {part.name for weight in weights.values() for part in weight.parts}
    for name, blocks in file.tensors.items():
        if name in ROPE_FACTORS or name in used or _predicts_further(file, name, config):
            continue
        stem, _, kind = name.rpartition(".")
        own = stem.rpartition(".")[2]
        if own in heads and kind in ("weight", "bias"):
            blocks = _unpaired(file, blocks, heads[own])
        if architecture.has_qkv_by_head and own == "attn_qkv":
            blocks = _by_head(blocks, config.num_attention_heads)
        offset = architecture.norm_offset if own.endswith("norm") and kind == "weight" else 0.0
        weights[f"{_name(stem, architecture)}.{kind}"] = Weight((blocks,), offset=offset)
    return weights


def _heads(config: PreTrainedConfig) -> dict[str, int]:
    """How many heads lie in the rows of what is rotated; a norm of heads has the numbers of one."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    return heads | {"attn_q_norm": 1, "attn_k_norm": 1}


def _made(file: GGUFFile, architecture: Architecture, config: PreTrainedConfig) -> dict[str, Weight]:
    """The weights that are made of tensors as the architecture says, of those layers that have all of these tensors."""
    weights: dict[str, Weight] = {}
    layers = config.num_hidden_layers
    for made in architecture.made:
        make = partial(made.make, config) if made.by_config else made.make
        for number in range(layers):
            names = [f"blk.{number}.{own}" for own in made.of]
            if file.tensors.keys() >= set(names):
                weight = Weight(tuple(file.tensors[name] for name in names), make)
                _check_parts(file, weight)
                weights[f"{architecture.layers}.{number}.{made.name}"] = weight
    for key, made in architecture.numbers.items():
        for number, value in enumerate(_numbers(file, key, layers)):
            blocks = Blocks(key, GGMLQuantizationType.F32, (1,), value.reshape(1).view(np.uint8).reshape(1, 4))
            weights[f"{architecture.layers}.{number}.{made.name}"] = Weight((blocks,), made.make)
    for made in architecture.made_on_top:
        if file.tensors.keys() >= set(made.of):
            weights[made.name] = Weight(tuple(file.tensors[name] for name in made.of), made.make)
            _check_parts(file, weights[made.name])
    return weights


def _numbers(file: GGUFFile, key: str, layers: int) -> NDArray[np.float32]:
    """The numbers that metadata has for each layer, as a list or as one for all.

    Raises:
        BadGGUF: it has others.
    """
    numbers = file.metadata.get(key)
    if isinstance(numbers, np.ndarray):
        if len(numbers) != layers:
            raise BadGGUF(file.path, f"{key} has {len(numbers)} entries; expected {layers}, one for each layer")
        return numbers.astype(np.float32)
    return np.full(layers, file.get(key, float), np.float32)


def _predicts_further(file: GGUFFile, name: str, config: PreTrainedConfig) -> bool:
    """Whether a tensor is of a layer behind the last that guesses tokens ahead, which is not needed."""
    match name.split(".", 2):
        case ["blk", number, _] if number.isdecimal():
            return bool(config.num_hidden_layers <= int(number) < file.layers)
    return False


def _check_parts(file: GGUFFile, weight: Weight) -> None:
    """Raises BadGGUF if tensors that make one weight do not fit each other."""
    try:
        _ = weight.shape
    except (RuntimeError, IndexError, ValueError):
        parts = ", ".join(f"{part.name} {part.shape}" for part in weight.parts)
        raise BadGGUF(file.path, f"tensors {parts} do not fit; expected what makes one weight of the model") from None


def absent_biases(file: GGUFFile, config: PreTrainedConfig) -> dict[str, Weight]:
    """Zeros for each bias that transformers' model has and the file has not: llama.cpp adds those that it finds."""
    architecture = architecture_of(file)
    biased = architecture.biased(config)
    matrices = {HEAD: file.tensors[EMBEDDING], **file.tensors}  # the head is the embedding if there is no other
    return {
        f"{_name(stem, architecture)}.bias": Weight((_zeros(f"{stem}.bias", blocks.shape[0]),))
        for name, blocks in matrices.items()
        if (stem := name.removesuffix(".weight")).rpartition(".")[2] in biased and f"{stem}.bias" not in file.tensors
    }


def zero_matrices(file: GGUFFile) -> list[str]:
    """The matrices that hold nothing but zeros. (The data of vectors has two dimensions, too.)"""
    return [name for name, blocks in file.tensors.items() if len(blocks.shape) > 1 and is_zero(blocks.data)]


def _zeros(name: str, size: int) -> Blocks:
    return Blocks(name, GGMLQuantizationType.F32, (size,), np.zeros((1, 4 * size), np.uint8))


def _name(stem: str, architecture: Architecture) -> str:
    match stem.split(".", 2):
        case ["blk", number, own]:
            return f"{architecture.layers}.{number}.{architecture.layer.get(own, own)}"
    return architecture.top.get(stem, stem)


def name_in_file(file: GGUFFile, weight: str) -> str:
    """What the file calls a weight of transformers' model, or would call it; its own name if it has none.

    Of several tensors that make one weight, it is one that is missing, or else the first.
    """
    architecture = architecture_of(file)
    if weight.startswith(f"{architecture.layers}."):
        number, _, name = weight.removeprefix(f"{architecture.layers}.").partition(".")
        ways = [[f"blk.{number}.{own}" for own in made.of] for made in architecture.made if made.name == name]
        if ways:
            parts = max(ways, key=lambda parts: len(file.tensors.keys() & set(parts)))
            return next((part for part in parts if part not in file.tensors), parts[0])
        own = {theirs: ours for ours, theirs in architecture.layer.items()}
        stem, _, kind = name.rpartition(".")
        return f"blk.{number}.{own.get(stem, stem)}.{kind}"
    stem, _, kind = weight.rpartition(".")
    return f"{dict(zip(architecture.top.values(), architecture.top, strict=True)).get(stem, stem)}.{kind}"


def _unpaired(file: GGUFFile, blocks: Blocks, heads: int) -> Blocks:
    """Bring the two halves of each head back, where llama.cpp has their rows in turn; rows stay whole."""
    rows = len(blocks.data) if len(blocks.shape) > 1 else blocks.shape[0]
    if rows % (2 * heads):
        raise BadGGUF(file.path, f"tensor {blocks.name} has {rows} rows, which {heads} heads cannot share")
    data = blocks.data.reshape(heads, rows // heads // 2, 2, -1).swapaxes(1, 2).reshape(blocks.data.shape)
    return Blocks(blocks.name, blocks.kind, blocks.shape, data)


def _by_head(blocks: Blocks, heads: int) -> Blocks:
    """Bring queries, keys and values of each head together, where all queries come first; rows stay whole.

    A tensor that the heads cannot share is left as it is, and refused later because of its size.
    """
    if blocks.shape[0] % (3 * heads):
        return blocks
    data = blocks.data.reshape(3, heads, -1).swapaxes(0, 1).reshape(blocks.data.shape)
    return Blocks(blocks.name, blocks.kind, blocks.shape, data)


def lazily(weights: Mapping[str, Weight], dtype: torch.dtype) -> Iterator[tuple[str, Lazy]]:
    """The weights for transformers' loader, which needs one after the other."""
    return ((name, Lazy(weight, dtype)) for name, weight in weights.items())
