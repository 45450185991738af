"""The weights of a Llama-type model, under the names of what they do: what both of our own decoders read.

Llama, Mistral, Qwen2 and Qwen3 are one architecture with few variations: biases for queries, keys and values, norms
for queries and keys. Their classes in transformers serve training, caches and masks of all kinds; a step needs none
of that. What differs from the pattern is refused with a reason, and is served by the model's own code.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

MODELS = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings whose angles depend on the position alone, not on how long the text is."""


class NotLlama(Exception):
    """The model is not of this type; the message says in what."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's weights, [outputs, inputs] each; norms are [size]."""

    qkv: Tensor  # queries of all heads, then keys, then values
    qkv_bias: Tensor | None
    output: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor
    input_norm: Tensor
    mlp_norm: Tensor
    query_norm: Tensor | None  # [head_dim]
    key_norm: Tensor | None


@dataclass(frozen=True, slots=True)
class Sizes:
    """What every layer needs to know."""

    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float  # of the norms
    scale: float  # of the scores


@dataclass(frozen=True, slots=True)
class Llama:
    """A model, taken apart."""

    sizes: Sizes
    embedding: Tensor  # [vocabulary, hidden]
    layers: list[Layer]
    final_norm: Tensor
    head: Tensor  # [vocabulary, hidden]
    cosines: Tensor  # [positions, head_dim], float32
    sines: Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype


def check(model: PreTrainedModel, context: int) -> None:
    """See that a model of so much context is of this type.

    Raises:
        NotLlama: it computes something that its weights alone do not tell.
    """
    kind, config = type(model).__name__, model.config
    if kind not in MODELS:
        raise NotLlama(f"{kind} is none of {', '.join(MODELS)}")
    decoder: Any = model.model
    attention, mlp = decoder.layers[0].self_attn, decoder.layers[0].mlp
    if config.hidden_act != "silu":
        raise NotLlama(f"activation {config.hidden_act}; expected silu")
    linear = (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj, model.lm_head)
    if not all(isinstance(part, nn.Linear) and part.bias is None for part in linear):
        raise NotLlama("biases beside those of queries, keys and values, or layers that are not linear")
    if decoder.rotary_emb.rope_type not in FIXED_ROTATIONS:
        raise NotLlama(f"rotary embedding {decoder.rotary_emb.rope_type}; expected {', '.join(FIXED_ROTATIONS)}")
    for layer in decoder.layers:
        window = getattr(layer.self_attn, "sliding_window", getattr(config, "sliding_window", None))
        if window is not None and window < context:
            raise NotLlama(f"layers that look back {window} tokens only; expected the context's {context}")


def take_apart(model: PreTrainedModel, positions: int) -> Llama:
    """The weights of a model that has passed `check`, and the angles of so many positions.

    The model is left without its layers, so that nobody keeps a layer's weights while they are packed one by one.
    """
    decoder: Any = model.model
    lm_head: Any = model.lm_head
    attention = decoder.layers[0].self_attn
    numbers = torch.arange(positions, device=model.device)[None]
    cosines, sines = decoder.rotary_emb(torch.zeros(1, device=model.device), numbers)
    taken = Llama(
        sizes=Sizes(
            heads=model.config.num_attention_heads,
            kv_heads=model.config.num_key_value_heads,
            head_dim=attention.head_dim,
            epsilon=model.config.rms_norm_eps,
            scale=attention.scaling,
        ),
        embedding=decoder.embed_tokens.weight.detach(),
        layers=[_layer(layer) for layer in decoder.layers],
        final_norm=decoder.norm.weight.detach(),
        head=lm_head.weight.detach(),
        cosines=cosines[0].float(),
        sines=sines[0].float(),
    )
    decoder.layers = nn.ModuleList()
    return taken


def _layer(layer: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    parts = [attention.q_proj, attention.k_proj, attention.v_proj]
    return Layer(
        qkv=torch.cat([part.weight.detach() for part in parts]),
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
