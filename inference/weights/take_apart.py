"""Takes a model of transformers apart into the structure that our own decoders read, if it is of the Llama type.

The classes of transformers also support training, caches and masks of all kinds, which a step does not need.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from inference.weights.llama import Layer, Llama, NotLlama, Rotation
from inference.weights.model_classes import decoder_of
from inference.weights.rotary import FIXED_ROTATIONS, fixed_length, in_rotated_order, of_both_halves, of_layers
from inference.weights.variation import Variation

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DECODERS = ("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model")
"""Classes of transformers, on their own or as the part of a model that sees or hears as well."""
VARIED = (
    *("GemmaModel", "Gemma2Model", "Gemma3TextModel", "GraniteModel", "Phi3Model", "SmolLM3Model"),
    *("MixtralModel", "Qwen3MoeModel", "GraniteMoeModel", "GraniteMoeSharedModel", "GptOssModel"),
)
"""Those that vary more. Uncompiled, they are served by their own code."""

HALF_ANGLES = ("gpt_oss",)
"""Model types whose angles are those of one half of a head; the other half has the same."""


def check_llama(model: "PreTrainedModel", context: int, may_vary: bool = False) -> None:
    """Check that a model is of this type, for texts of up to `context` tokens.

    Args:
        may_vary: whether the decoder in C++ will compute it, which knows windows and what `VARIED` have.

    Raises:
        NotLlama: the model computes something else.
    """
    decoder = decoder_of(model)
    kind, config = type(decoder).__name__, decoder.config
    known = DECODERS + VARIED if may_vary else DECODERS
    if kind not in known:
        raise NotLlama(f"{kind} is not one of {', '.join(known)}")
    if config.is_heterogeneous:
        raise NotLlama("layers with settings of their own (per_layer_config)")
    variation = Variation.of(config, config.model_type, model.dtype)
    if variation.is_gelu and not may_vary:
        raise NotLlama("a GELU as the activation; expected SiLU")
    if variation.changes_logits and not type(model).__name__.endswith("ForCausalLM"):
        raise NotLlama("scaled or bounded logits in a model of several senses, which may have them as they are")
    linear = [decoder.layers[0].self_attn.o_proj]
    for mlp in map(_mlp, decoder.layers):
        if not hasattr(mlp, "experts"):
            names = ("gate_proj", "up_proj", "gate_up_proj", "down_proj")
            linear += [getattr(mlp, name) for name in names if hasattr(mlp, name)]
    if not all(isinstance(part, nn.Linear) for part in (*linear, model.lm_head)):
        raise NotLlama("layers that are not linear")
    if model.lm_head.bias is not None or (not may_vary and any(part.bias is not None for part in linear)):
        raise NotLlama("biases other than those of queries, keys and values")
    schemes = decoder.rotary_emb.rope_type
    for scheme in schemes.values() if isinstance(schemes, dict) else (schemes,):
        if scheme not in FIXED_ROTATIONS:
            raise NotLlama(f"rotary embedding {scheme}; expected {', '.join(FIXED_ROTATIONS)}")
    for number in range(len(decoder.layers)):
        window = variation.window(number)
        if window is not None and window < context and not may_vary:
            raise NotLlama(f"layers that look back {window} tokens only; expected the context's {context}")


def take_apart(model: "PreTrainedModel", positions: int) -> Llama:
    """Return the weights of a model that has passed `check_llama`, and the angles of the first `positions` places.

    The model is left without its layers, so that nothing keeps a layer's weights alive while they are packed.
    """
    decoder = decoder_of(model)
    variation = Variation.of(decoder.config, decoder.config.model_type, model.dtype)
    attention, lm_head = decoder.layers[0].self_attn, model.lm_head
    taken = Llama(
        sizes=variation.sizes(attention.head_dim, attention.scaling),
        dtype=decoder.embed_tokens.weight.dtype,
        embedding=decoder.embed_tokens.weight.detach(),
        layers=_layers(decoder, variation, positions),
        final_norm=_norm(decoder.norm, variation) * variation.logits_scale,
        head=lm_head.weight.detach(),
    )
    decoder.layers = nn.ModuleList()
    return taken


def _layers(decoder: Any, variation: Variation, positions: int) -> list[Layer]:
    head_dim = decoder.layers[0].self_attn.head_dim
    rotations = of_layers(variation, len(decoder.layers), head_dim, lambda kind: _rotation(decoder, kind, positions))
    taken = []
    for number, rotation in enumerate(rotations):
        taken.append(_layer(decoder.layers[number], variation, *rotation, variation.window(number)))
        decoder.layers[number] = nn.Module()  # experts' weights are copied: only one layer's are there twice
    return taken


def _rotation(decoder: Any, kind: str | None, positions: int) -> Rotation:
    """The angles of layers of a kind, up to the length beyond which all would be others, if there is one."""
    numbers = torch.arange(fixed_length(decoder.config, kind, positions), device=decoder.device)[None]
    names = {} if kind is None else {"layer_type": kind}
    cosines, sines = decoder.rotary_emb(torch.zeros(1, device=decoder.device), numbers, **names)
    angles = Rotation(cosines[0].float(), sines[0].float())
    return angles if decoder.config.model_type not in HALF_ANGLES else of_both_halves(angles)


def _layer(layer: Any, variation: Variation, rotated: int, rotation: Rotation, window: int | None) -> Layer:
    attention, mlp = layer.self_attn, _mlp(layer)
    query, key, value = _queries_keys_values(attention)
    names = [name for name in ("q_proj", "k_proj", "v_proj") if hasattr(attention, name)]
    biases = [bias.detach() for name in names if (bias := getattr(attention, name).bias) is not None]
    of_mlp = _of_experts(mlp) if hasattr(mlp, "experts") else _of_mlp(mlp)
    behind = variation.has_four_norms
    return Layer(
        query=in_rotated_order(query, rotated, attention.head_dim),
        key=in_rotated_order(key, rotated, attention.head_dim),
        value=value,
        qkv_bias=torch.cat(biases) if biases else None,
        output=attention.o_proj.weight.detach(),
        output_bias=_bias(attention.o_proj),
        **of_mlp,
        input_norm=_norm(layer.input_layernorm, variation),
        mlp_norm=_norm(layer.pre_feedforward_layernorm if behind else layer.post_attention_layernorm, variation),
        query_norm=_norm(attention.q_norm, variation) if hasattr(attention, "q_norm") else None,
        key_norm=_norm(attention.k_norm, variation) if hasattr(attention, "k_norm") else None,
        attended_norm=_norm(layer.post_attention_layernorm, variation) if behind else None,
        activated_norm=_norm(layer.post_feedforward_layernorm, variation) if behind else None,
        rotation=rotation,
        window=window,
        sinks=attention.sinks.detach() if hasattr(attention, "sinks") else None,
    )


def _mlp(layer: Any) -> Any:
    return layer.mlp if hasattr(layer, "mlp") else layer.block_sparse_moe


def _queries_keys_values(attention: Any) -> Sequence[Tensor]:
    """The weights [outputs, inputs] of queries, keys and values, which may be one."""
    if not hasattr(attention, "qkv_proj"):
        return [part.weight.detach() for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
    config = attention.config
    heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
    return torch.split(attention.qkv_proj.weight.detach(), [count * attention.head_dim for count in heads])


def _of_mlp(mlp: Any) -> dict[str, Any]:
    """The fields of a layer that are the MLP's. Gate and up may be one."""
    down = {"down": mlp.down_proj.weight.detach(), "down_bias": _bias(mlp.down_proj)}
    if hasattr(mlp, "gate_up_proj"):
        return down | dict(zip(("gate", "up"), torch.chunk(mlp.gate_up_proj.weight.detach(), 2), strict=True))
    matrices = {"gate": mlp.gate_proj.weight.detach(), "up": mlp.up_proj.weight.detach()}
    return down | matrices | {"gate_bias": _bias(mlp.gate_proj), "up_bias": _bias(mlp.up_proj)}


def _of_experts(mlp: Any) -> dict[str, Any]:
    """The same of all experts, one below the other."""
    router = mlp.gate if hasattr(mlp, "gate") else mlp.router
    fields = {"router": router.weight.detach(), "router_bias": _bias(router)}
    gate_up, down = mlp.experts.gate_up_proj.detach(), mlp.experts.down_proj.detach()  # [experts, outputs, inputs]
    if not hasattr(mlp.experts, "gate_up_proj_bias"):
        gate, up = torch.chunk(gate_up, 2, dim=1)
        return fields | {"gate": gate.flatten(0, 1), "up": up.flatten(0, 1), "down": down.flatten(0, 1)}
    # gpt-oss: [experts, inputs, outputs], the outputs of gates and ups in turn.
    biases = mlp.experts.gate_up_proj_bias.detach()
    for first, name in enumerate(("gate", "up")):
        fields[name] = gate_up[..., first::2].transpose(1, 2).flatten(0, 1)
        fields[f"{name}_bias"] = biases[:, first::2].flatten()
    down_biases = mlp.experts.down_proj_bias.detach()
    return fields | {"down": down.transpose(1, 2).flatten(0, 1), "down_bias": down_biases.flatten()}


def _bias(part: Any) -> Tensor | None:
    bias: Tensor | None = getattr(part, "bias", None)
    return None if bias is None else bias.detach()


def _norm(norm: Any, variation: Variation) -> Tensor:
    """A norm's weights, with what it adds to them: in float32, or small ones would be lost."""
    weight: Tensor = norm.weight.detach()
    return weight.float() + variation.norm_offset if variation.norm_offset else weight
