"""The weights of the model in a GGUF file, under the names that transformers has for them.

llama.cpp calls everything by other names, and changes some weights when it converts a model. That is undone here: rows
of queries and keys are in another order for Llama and Mistral (so that neighbours are rotated together, not halves),
and Gemma's norms have 1 added.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from gguf import GGMLQuantizationType
from torch import Tensor
from transformers import PreTrainedConfig

from inference.weights.gguf.architectures import architecture_of
from inference.weights.gguf.file import BadGGUF, Blocks, GGUFFile
from inference.weights.gguf.numbers import dequantized
from inference.weights.gguf.rope import ROPE_FACTORS

GATES, UPS, GATES_AND_UPS = "mlp.experts.gate.weight", "mlp.experts.up.weight", "mlp.experts.gate_up_proj"
DOWNS = "mlp.experts.down_proj.weight"
ROWS = ("ffn_gate_inp_shexp",)
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight of the model: blocks of the file, with what has to be undone."""

    blocks: Blocks
    offset: float = 0.0
    below: Blocks | None = None  # of the same experts, whose rows come after these
    is_row: bool = False  # a vector in the file (of some converters), a matrix of one row in the model

    @property
    def shape(self) -> tuple[int, ...]:
        shape = (1, *self.blocks.shape) if self.is_row else self.blocks.shape
        return shape if self.below is None else (shape[0], shape[1] + self.below.shape[1], *shape[2:])

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        if self.offset:
            return (dequantized(self.blocks, torch.float32) - self.offset).to(dtype)
        numbers = dequantized(self.blocks, dtype)
        if self.below is not None:
            numbers = torch.cat([numbers, dequantized(self.below, dtype)], dim=1)
        return numbers.view(self.shape)


class Lazy:
    """A weight as transformers' loader takes it: made when it is indexed, in the model's precision at once."""

    def __init__(self, weight: Weight, dtype: torch.dtype) -> None:
        self._weight, self._dtype = weight, dtype
        self.shape = weight.shape

    def __getitem__(self, _: object) -> Tensor:
        return self._weight.dequantized(self._dtype)


def model_weights(file: GGUFFile, config: PreTrainedConfig) -> dict[str, Weight]:
    """The weights under transformers' names; a tensor that has none keeps its own, and is found out by that."""
    architecture = architecture_of(file)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights: dict[str, Weight] = {}
    for name, blocks in file.tensors.items():
        if name in ROPE_FACTORS:
            continue
        stem, _, kind = name.rpartition(".")
        own = stem.rpartition(".")[2]
        if architecture.has_paired_rows and own in heads:
            blocks = _unpaired(file, blocks, heads[own])
        offset = architecture.norm_offset if own.endswith("norm") else 0.0
        weights[f"{_name(stem, architecture.layer)}.{kind}"] = Weight(
            blocks, offset, is_row=own in ROWS and len(blocks.shape) == 1
        )
    for name in [name for name in weights if name.endswith(DOWNS)]:
        weights[name.removesuffix(".weight")] = weights.pop(name)
    for name in [name for name in weights if name.endswith(GATES)]:
        if (up := weights.pop(name.replace(GATES, UPS), None)) is not None:
            weights[name.replace(GATES, GATES_AND_UPS)] = _joined(file, weights.pop(name).blocks, up.blocks)
    return weights


def absent_biases(file: GGUFFile, config: PreTrainedConfig) -> dict[str, Weight]:
    """Zeros for each bias that transformers' model has and the file has not: llama.cpp adds those that it finds."""
    architecture = architecture_of(file)
    biased = architecture.biased(config)
    return {
        f"{_name(stem, architecture.layer)}.bias": Weight(_zeros(f"{stem}.bias", blocks.shape[0]))
        for name, blocks in file.tensors.items()
        if (stem := name.removesuffix(".weight")).rpartition(".")[2] in biased and f"{stem}.bias" not in file.tensors
    }


def _zeros(name: str, size: int) -> Blocks:
    return Blocks(name, GGMLQuantizationType.F32, (size,), np.zeros((1, 4 * size), np.uint8))


def _joined(file: GGUFFile, gate: Blocks, up: Blocks) -> Weight:
    """What llama.cpp has in two tensors [experts, rows, inputs], as transformers has it in one."""
    if len(gate.shape) != 3 or gate.shape != up.shape:
        raise BadGGUF(file.path, f"tensors {gate.name} and {up.name} are {gate.shape} and {up.shape}; expected experts")
    return Weight(gate, below=up)


def _name(stem: str, layer: Mapping[str, str]) -> str:
    match stem.split(".", 2):
        case ["blk", number, own]:
            return f"model.layers.{number}.{layer.get(own, own)}"
    return TOP.get(stem, stem)


def name_in_file(file: GGUFFile, weight: str) -> str:
    """What the file calls a weight of transformers' model, or would call it; its own name if it has none."""
    weight = weight.replace(GATES_AND_UPS, GATES)
    if weight.endswith(DOWNS.removesuffix(".weight")):
        weight = f"{weight}.weight"
    stem, _, kind = weight.rpartition(".")
    match stem.split(".", 3):
        case ["model", "layers", number, name]:
            own = {theirs: ours for ours, theirs in architecture_of(file).layer.items()}
            return f"blk.{number}.{own.get(name, name)}.{kind}"
    return f"{dict(zip(TOP.values(), TOP, strict=True)).get(stem, stem)}.{kind}"


def _unpaired(file: GGUFFile, blocks: Blocks, heads: int) -> Blocks:
    """Bring the two halves of each head back, where llama.cpp has their rows in turn; rows stay whole."""
    rows = len(blocks.data) if len(blocks.shape) > 1 else blocks.shape[0]
    if rows % (2 * heads):
        raise BadGGUF(file.path, f"tensor {blocks.name} has {rows} rows, which {heads} heads cannot share")
    data = blocks.data.reshape(heads, rows // heads // 2, 2, -1).swapaxes(1, 2).reshape(blocks.data.shape)
    return Blocks(blocks.name, blocks.kind, blocks.shape, data)


def lazily(weights: Mapping[str, Weight], dtype: torch.dtype) -> Iterator[tuple[str, Lazy]]:
    """The weights for transformers' loader, which needs one after the other."""
    return ((name, Lazy(weight, dtype)) for name, weight in weights.items())
