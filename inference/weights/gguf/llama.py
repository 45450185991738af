"""A GGUF file as the neutral Llama structure: its quantized matrices stay as they lie in the file, which stays mapped.

No model of transformers is built, and nothing is dequantized but what is not quantized anyway. What is not exactly a
Llama-type model is refused with a reason; it is then loaded the general way, which also says what is wrong with it.
"""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from inference.weights.formats import FORMATS
from inference.weights.gguf.architecture import as_it_is
from inference.weights.gguf.architectures import architecture_of
from inference.weights.gguf.file import Blocks, GGUFFile
from inference.weights.gguf.heads import is_llama
from inference.weights.gguf.numbers import PLAIN, dequantized
from inference.weights.gguf.weights import Weight, model_weights
from inference.weights.llama import Layer, Llama, NotLlama, Rotation
from inference.weights.quantized import Matrix, QuantizedMatrix, rows
from inference.weights.rotary import angles, in_rotated_order, of_layers
from inference.weights.variation import Variation


def llama_from_gguf(file: GGUFFile, config: PreTrainedConfig, dtype: torch.dtype, context: int) -> Llama:
    """The model in a file, to be computed in `dtype`.

    Raises:
        NotLlama: it is not of that type, or something about its weights is not as it should be.
    """
    architecture = architecture_of(file)
    if not is_llama(file):
        raise NotLlama(f"{architecture.model_type} is not an architecture of the Llama type")
    if config.num_attention_heads % config.num_key_value_heads:
        raise NotLlama(f"{config.num_attention_heads} heads cannot share {config.num_key_value_heads} keys and values")
    variation = Variation.of(config, architecture.model_type, dtype)
    weights = _Weights(model_weights(file, config), dtype)
    hidden = config.hidden_size
    embedding = weights.matrix("model.embed_tokens", config.vocab_size, hidden)
    head = embedding if config.tie_word_embeddings else weights.matrix("lm_head", config.vocab_size, hidden)
    biased = architecture.biased(config)
    head_dim = config.head_dim
    rotations = of_layers(
        variation, config.num_hidden_layers, head_dim, lambda kind: angles(config, kind, head_dim, context)
    )
    llama = Llama(
        sizes=variation.sizes(head_dim, variation.score_scale),
        dtype=dtype,
        embedding=embedding,
        layers=[_layer(weights, number, variation, *rotation, biased) for number, rotation in enumerate(rotations)],
        final_norm=weights.vector("model.norm.weight", hidden) * variation.logits_scale,
        head=head,
    )
    weights.refuse_rest()
    return llama


def _layer(
    weights: "_Weights", number: int, variation: Variation, rotated: int, rotation: Rotation, biased: Collection[str]
) -> Layer:
    config, prefix = variation.config, f"model.layers.{number}"
    attention, hidden, head_dim = f"{prefix}.self_attn", config.hidden_size, config.head_dim
    queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    outputs = {f"{attention}.q_proj": queries, f"{attention}.k_proj": keys, f"{attention}.v_proj": keys}
    query, key, value = weights.matrices(f"{attention}.qkv_proj", outputs, hidden)

    def norm(name: str, size: int, is_there: bool = True) -> Tensor | None:
        return weights.vector(f"{name}.weight", size) if is_there else None

    has_four = variation.has_four_norms
    before_mlp = "pre_feedforward_layernorm" if has_four else "post_attention_layernorm"
    return Layer(
        query=in_rotated_order(query, rotated, head_dim),
        key=in_rotated_order(key, rotated, head_dim),
        value=value,
        qkv_bias=weights.biases(outputs.items()) if "attn_q" in biased else None,
        output=weights.matrix(f"{attention}.o_proj", hidden, queries),
        output_bias=weights.biases([(f"{attention}.o_proj", hidden)]) if "attn_output" in biased else None,
        input_norm=weights.vector(f"{prefix}.input_layernorm.weight", hidden),
        mlp_norm=weights.vector(f"{prefix}.{before_mlp}.weight", hidden),
        query_norm=norm(f"{attention}.q_norm", head_dim, variation.has_head_norms),
        key_norm=norm(f"{attention}.k_norm", head_dim, variation.has_head_norms),
        attended_norm=norm(f"{prefix}.post_attention_layernorm", hidden, has_four),
        activated_norm=norm(f"{prefix}.post_feedforward_layernorm", hidden, has_four),
        rotation=rotation,
        window=variation.window(number),
        sinks=weights.plain(f"{attention}.sinks", (config.num_attention_heads,)) if variation.has_sinks else None,
        **_mlp(weights, prefix, variation, biased),
    )


def _mlp(weights: "_Weights", prefix: str, variation: Variation, biased: Collection[str]) -> dict[str, Any]:
    """The fields of a layer that are the MLP's."""
    if variation.experts is not None and weights.has(f"{prefix}.{variation.places_of_experts[0]}.down_proj"):
        return _experts(weights, prefix, variation)
    hidden, width = variation.config.hidden_size, variation.config.intermediate_size
    gate, up, down = (f"{prefix}.mlp.{name}_proj" for name in ("gate", "up", "down"))
    matrices = weights.matrices(f"{prefix}.mlp.gate_up_proj", {gate: width, up: width}, hidden)
    fields: dict[str, Any] = dict(zip(("gate", "up"), matrices, strict=True))
    if "ffn_down" in biased:
        fields["down_bias"] = weights.biases([(down, hidden)])
        if (both := weights.biases([(gate, width), (up, width)])) is not None:
            fields["gate_bias"], fields["up_bias"] = both.chunk(2)
    return fields | {"down": weights.matrix(down, hidden, width)}


def _experts(weights: "_Weights", prefix: str, variation: Variation) -> dict[str, Any]:
    """The same of all experts, one below the other."""
    assert variation.experts is not None
    count, hidden = variation.experts.count, variation.config.hidden_size
    width = getattr(variation.config, "moe_intermediate_size", variation.config.intermediate_size)
    place, router = (f"{prefix}.{name}" for name in variation.places_of_experts)
    gate, up = weights.stacks(f"{place}.gate_up_proj", [(count, width, hidden)] * 2)
    (down,) = weights.stacks(f"{place}.down_proj", [(count, hidden, width)])
    fields = {"gate": gate, "up": up, "down": down, "router": weights.plain(f"{router}.weight", (count, hidden))}
    if not weights.has(f"{place}.down_proj_bias"):
        return fields
    gate_bias, up_bias = weights.stacked_biases(f"{place}.gate_up_proj_bias", [(count, width)] * 2)
    (down_bias,) = weights.stacked_biases(f"{place}.down_proj_bias", [(count, hidden)])
    biases = {"gate_bias": gate_bias, "up_bias": up_bias, "down_bias": down_bias}
    return fields | biases | {"router_bias": weights.plain(f"{router}.bias", (count,))}


class _Weights:
    """A file's weights under transformers' names; each is taken once, and must have the shape that is expected."""

    def __init__(self, weights: dict[str, Weight], dtype: torch.dtype) -> None:
        self._weights = weights
        self._dtype = dtype

    def has(self, name: str) -> bool:
        return name in self._weights

    def matrix(self, name: str, outputs: int, inputs: int) -> Matrix:
        return self._matrix(name, self._take(f"{name}.weight", (outputs, inputs)))

    def stacks(self, name: str, shapes: Sequence[tuple[int, ...]]) -> Sequence[Matrix]:
        """Of each tensor [experts, outputs, inputs] that a weight is made of, the experts' matrices as one."""
        return [self._matrix(name, blocks) for blocks in self._parts(name, shapes)]

    def stacked_biases(self, name: str, shapes: Sequence[tuple[int, ...]]) -> Sequence[Tensor]:
        """The same of biases [experts, outputs]."""
        parts = self._parts(name, shapes)
        return [_finite(name, dequantized(blocks, torch.float32)).flatten() for blocks in parts]

    def _matrix(self, name: str, blocks: Blocks) -> Matrix:
        kind = blocks.kind.name
        if kind in PLAIN:
            return _finite(name, dequantized(blocks, self._dtype)).flatten(0, -2)
        if kind not in FORMATS:
            raise NotLlama(f"{name} is in the format {kind}; expected one of {', '.join(FORMATS)}")
        matrix = QuantizedMatrix(kind, blocks.data, blocks.shape[-1])
        if not matrix.is_finite():
            raise NotLlama(f"{name} has scales that are not finite in float16")
        return matrix

    def matrices(self, fused: str, outputs: Mapping[str, int], inputs: int) -> Sequence[Matrix]:
        """Matrices of so many outputs each, which may be one in the file; their rows are views of it."""
        if f"{fused}.weight" not in self._weights:
            return [self.matrix(name, size, inputs) for name, size in outputs.items()]
        whole = self.matrix(fused, sum(outputs.values()), inputs)
        ends = itertools.accumulate(outputs.values())
        return [rows(whole, slice(end - size, end)) for end, size in zip(ends, outputs.values(), strict=True)]

    def vector(self, name: str, size: int) -> Tensor:
        """In float32, as norms and biases are in files and in the decoder; with all that a norm adds to its weights."""
        return self.plain(name, (size,))

    def plain(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """In float32."""
        return _finite(name, dequantized(self._take(name, shape), torch.float32))

    def biases(self, names: Iterable[tuple[str, int]]) -> Tensor | None:
        """The biases of several matrices together, where any of them has one; zeros for one that is not there."""
        wanted = [(f"{name}.bias", size) for name, size in names]
        if not any(name in self._weights for name, _ in wanted):
            return None
        return torch.cat(
            [self.vector(name, size) if name in self._weights else torch.zeros(size) for name, size in wanted]
        )

    def refuse_rest(self) -> None:
        if self._weights:
            raise NotLlama(f"weights that a Llama has no place for: {next(iter(self._weights))}")

    def _parts(self, name: str, shapes: Sequence[tuple[int, ...]]) -> Sequence[Blocks]:
        """The tensors of these shapes that a weight is made of."""
        parts = self._weights.pop(name).parts if self.has(name) else ()
        if [blocks.shape for blocks in parts] != list(shapes):
            found = " and ".join(str(blocks.shape) for blocks in parts) or "nothing"
            raise NotLlama(f"{name} is made of {found}; expected {' and '.join(map(str, shapes))}")
        return parts

    def _take(self, name: str, shape: tuple[int, ...]) -> Blocks:
        if name not in self._weights:
            raise NotLlama(f"there is no {name}")
        weight = self._weights.pop(name)
        blocks = weight.parts[0]
        if weight.make is not as_it_is:
            raise NotLlama(f"{name} is not in the file as it is")
        if blocks.shape != shape:
            raise NotLlama(f"{name} has the shape {blocks.shape}; expected {shape}")
        return blocks


def _finite(name: str, tensor: Tensor) -> Tensor:
    if not tensor.isfinite().all():
        raise NotLlama(f"{name} has numbers that are not finite")
    return tensor
