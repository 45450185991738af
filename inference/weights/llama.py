"""The weights of a Llama-type model in the form that our own decoders read.

Llama, Mistral, Qwen2 and Qwen3 are one architecture with few variations: biases for queries, keys and values, norms
for queries and keys. Their classes in transformers also support training, caches and masks of all kinds, which a step
does not need. A model that differs in anything else is refused with a reason, and is served by its own code.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from inference.weights.formats import FORMATS
from inference.weights.model_classes import decoder_of
from inference.weights.quantized import QUANTIZERS, Matrix, QuantizedMatrix, quantize

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DECODERS = ("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model")
"""Classes of transformers, on their own or as the part of a model that sees or hears as well."""
FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings whose angles depend on the position alone, not on how long the text is."""


class NotLlama(Exception):
    """The model is not of this type; the message says how it differs."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's weights, [outputs, inputs] each; norms are [size]."""

    query: Matrix  # of all heads
    key: Matrix
    value: Matrix
    qkv_bias: Tensor | None  # of all three, one after the other
    output: Matrix
    gate: Matrix
    up: Matrix
    down: Matrix
    input_norm: Tensor
    mlp_norm: Tensor
    query_norm: Tensor | None  # [head_dim]
    key_norm: Tensor | None

    @property
    def matrices(self) -> dict[str, Matrix]:
        return {name: getattr(self, name) for name in ("query", "key", "value", "output", "gate", "up", "down")}


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes that all layers have in common."""

    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float  # of the norms
    scale: float  # of the scores


@dataclass(frozen=True, slots=True)
class Llama:
    """The weights of a whole model."""

    sizes: Sizes
    dtype: torch.dtype  # to compute in
    embedding: Matrix  # [vocabulary, hidden]
    layers: list[Layer]
    final_norm: Tensor
    head: Matrix  # [vocabulary, hidden]
    cosines: Tensor  # [positions, head_dim], float32
    sines: Tensor

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


def check(model: "PreTrainedModel", context: int) -> None:
    """Check that a model is of this type, for texts of up to `context` tokens.

    Raises:
        NotLlama: the model computes something else.
    """
    decoder = decoder_of(model)
    kind, config = type(decoder).__name__, decoder.config
    if kind not in DECODERS:
        raise NotLlama(f"{kind} is not one of {', '.join(DECODERS)}")
    if config.is_heterogeneous:
        raise NotLlama("layers with settings of their own (per_layer_config)")
    attention, mlp = decoder.layers[0].self_attn, decoder.layers[0].mlp
    if config.hidden_act != "silu":
        raise NotLlama(f"activation {config.hidden_act}; expected silu")
    linear = (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj, model.lm_head)
    if not all(isinstance(part, nn.Linear) and part.bias is None for part in linear):
        raise NotLlama("biases other than those of queries, keys and values, or layers that are not linear")
    if decoder.rotary_emb.rope_type not in FIXED_ROTATIONS:
        raise NotLlama(f"rotary embedding {decoder.rotary_emb.rope_type}; expected {', '.join(FIXED_ROTATIONS)}")
    for layer in decoder.layers:
        window = getattr(layer.self_attn, "sliding_window", getattr(config, "sliding_window", None))
        if window is not None and window < context:
            raise NotLlama(f"layers that look back {window} tokens only; expected the context's {context}")


def take_apart(model: "PreTrainedModel", positions: int) -> Llama:
    """Return the weights of a model that has passed `check`, and the angles of the first `positions` places.

    The model is left without its layers, so that nothing keeps a layer's weights alive while they are packed.
    """
    decoder = decoder_of(model)
    lm_head: Any = model.lm_head
    attention = decoder.layers[0].self_attn
    numbers = torch.arange(positions, device=model.device)[None]
    cosines, sines = decoder.rotary_emb(torch.zeros(1, device=model.device), numbers)
    taken = Llama(
        sizes=Sizes(
            heads=decoder.config.num_attention_heads,
            kv_heads=decoder.config.num_key_value_heads,
            head_dim=attention.head_dim,
            epsilon=decoder.config.rms_norm_eps,
            scale=attention.scaling,
        ),
        dtype=decoder.embed_tokens.weight.dtype,
        embedding=decoder.embed_tokens.weight.detach(),
        layers=[_layer(layer) for layer in decoder.layers],
        final_norm=decoder.norm.weight.detach(),
        head=lm_head.weight.detach(),
        cosines=cosines[0].float(),
        sines=sines[0].float(),
    )
    decoder.layers = nn.ModuleList()
    return taken


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


def _layer(layer: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    parts = [attention.q_proj, attention.k_proj, attention.v_proj]
    return Layer(
        query=attention.q_proj.weight.detach(),
        key=attention.k_proj.weight.detach(),
        value=attention.v_proj.weight.detach(),
        qkv_bias=None if parts[0].bias is None else torch.cat([part.bias.detach() for part in parts]),
        output=attention.o_proj.weight.detach(),
        gate=mlp.gate_proj.weight.detach(),
        up=mlp.up_proj.weight.detach(),
        down=mlp.down_proj.weight.detach(),
        input_norm=layer.input_layernorm.weight.detach(),
        mlp_norm=layer.post_attention_layernorm.weight.detach(),
        query_norm=attention.q_norm.weight.detach() if hasattr(attention, "q_norm") else None,
        key_norm=attention.k_norm.weight.detach() if hasattr(attention, "k_norm") else None,
    )
