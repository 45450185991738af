"""The weights of a Llama-type model in the form that our own decoders read.

Llama, Mistral, Qwen2 and Qwen3 are one architecture with few variations: biases for queries, keys and values, norms
for queries and keys. Gemma, Granite, Phi-3 and SmolLM3 vary a little more: in the activation, with norms behind
attention and MLP, scales, windows, layers that are not rotated. Mixtral, gpt-oss and others have many MLPs in a layer,
its experts. A model that differs in anything else is not of this type, and is served by its own code.

`take_apart` makes this structure of a model of transformers, `gguf/llama.py` of a file.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference.weights.formats import FORMATS
from inference.weights.quantized import QUANTIZERS, Matrix, QuantizedMatrix, quantize


class NotLlama(Exception):
    """The model is not of this type; the message says how it differs."""


@dataclass(frozen=True, slots=True, eq=False)
class Rotation:
    """The angles of a rotary embedding, in float32; both halves of a head have the same. Layers may share it."""

    cosines: Tensor  # [positions, head_dim]
    sines: Tensor


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's weights, [outputs, inputs] each; norms are [size]."""

    query: Matrix  # of all heads
    key: Matrix
    value: Matrix
    qkv_bias: Tensor | None  # of all three, one after the other
    output: Matrix
    gate: Matrix  # with experts, those of all of them, one below the other; so are up and down
    up: Matrix
    down: Matrix
    input_norm: Tensor
    mlp_norm: Tensor
    query_norm: Tensor | None  # [head_dim]
    key_norm: Tensor | None
    attended_norm: Tensor | None  # of what attention adds to the hidden states
    activated_norm: Tensor | None  # of what the MLP adds to them
    rotation: Rotation  # of queries and keys
    window: int | None  # how many positions a token looks back, itself included; None: to the beginning
    output_bias: Tensor | None = None
    gate_bias: Tensor | None = None  # with experts, those of all of them; so are the next two
    up_bias: Tensor | None = None
    down_bias: Tensor | None = None
    sinks: Tensor | None = None  # [heads], scores that take their share of the weights, and have no value
    router: Tensor | None = None  # [experts, hidden]; None: there is one MLP, for all tokens
    router_bias: Tensor | None = None  # [experts]

    @property
    def expert_shape(self) -> tuple[int, int]:
        """The outputs and inputs of one expert's `down`, in a layer with a router."""
        assert self.router is not None
        return self.down.shape[0] // len(self.router), self.down.shape[1]

    @property
    def matrices(self) -> dict[str, Matrix]:
        return {name: getattr(self, name) for name in ("query", "key", "value", "output", "gate", "up", "down")}


@dataclass(frozen=True, slots=True)
class Experts:
    """How many there are in a layer, and how a token is shared out among those with the highest scores."""

    count: int
    per_token: int
    weights_add_up: bool  # to 1, those of a token's experts, else those of all experts


@dataclass(frozen=True, slots=True)
class Limits:
    """Of an MLP whose gate and up have a limit: gate * sigmoid(factor * gate) * (up + 1)."""

    limit: float  # of both; the gate has it above only
    factor: float


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes that all layers have in common."""

    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float  # of the norms
    scale: float  # of the scores
    embedding_scale: float = 1.0
    is_gelu: bool = False  # the MLP's activation: GELU in its form with tanh, else SiLU
    score_cap: float | None = None  # a bound that scores approach, as tanh approaches 1
    logit_cap: float | None = None  # the same of logits
    experts: Experts | None = None  # of layers with a router
    limits: Limits | None = None


@dataclass(frozen=True, slots=True)
class Llama:
    """The weights of a whole model."""

    sizes: Sizes
    dtype: torch.dtype  # to compute in
    embedding: Matrix  # [vocabulary, hidden]
    layers: list[Layer]
    final_norm: Tensor
    head: Matrix  # [vocabulary, hidden]

    @property
    def device(self) -> torch.device:
        return self.final_norm.device

    @property
    def formats(self) -> set[str]:
        """The formats of its quantized matrices."""
        return {matrix.format for matrix in self.of_each_format()}

    def of_each_format(self) -> list[QuantizedMatrix]:
        """A quantized matrix of each format that it has."""
        quantized = (matrix for matrix in self.matrices() if isinstance(matrix, QuantizedMatrix))
        return list({matrix.format: matrix for matrix in quantized}.values())

    def matrices(self) -> Iterator[Matrix]:
        """All of its matrices, from the embedding on."""
        yield from (self.embedding, self.head)
        for layer in self.layers:
            yield from layer.matrices.values()


def formats_of(kind: str) -> set[str]:
    """The formats of the matrices that `quantized` makes."""
    return {QUANTIZERS[kind][0], QUANTIZERS["int8"][0]}


def quantized(llama: Llama, kind: str) -> Llama:
    """Return the model with its matrices quantized to int8 or int4; that of the logits is int8 in both cases.

    Matrices of a GGUF file that take no more bits than that stay as they are: rounded again, they would lose more
    without becoming smaller.

    `llama` is left without its layers, so that one layer at a time exists twice.

    Raises:
        ValueError: a matrix has weights that no scale can hold.
    """
    layers = [_quantized_layer(llama.layers.pop(0), kind) for _ in range(len(llama.layers))]
    return dataclasses.replace(llama, layers=layers, head=_quantized(llama.head, "int8"))


def _quantized_layer(layer: Layer, kind: str) -> Layer:
    matrices: dict[str, Any] = {name: _quantized(matrix, kind) for name, matrix in layer.matrices.items()}
    return dataclasses.replace(layer, **matrices)


def _quantized(matrix: Matrix, kind: str) -> QuantizedMatrix:
    if not isinstance(matrix, QuantizedMatrix):
        return quantize(matrix, kind)
    is_small = FORMATS[matrix.format].bits <= FORMATS[QUANTIZERS[kind][0]].bits
    return matrix if is_small else quantize(matrix.dequantized(), kind)
