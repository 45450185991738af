"""Translates a GGUF file into what transformers has for the same model: its configuration, and its weights' names.

llama.cpp calls everything by other names, and changes some weights when it converts a model. Three of the changes are
undone here: rows of queries and keys are in another order for Llama and Mistral (so that neighbours are rotated
together, not halves), Gemma's norms have 1 added, and a rotary scheme such as Llama 3's is stored as one factor for
each frequency. What a file says about the model and nothing here understands is refused by name.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from inference.weights.config_numbers import check_numbers
from inference.weights.gguf import BadGGUF, Blocks, GGUFFile

LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""What llama.cpp calls a layer's weights, and what transformers does."""
FOUR_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
"""Gemma 2 and 3 have norms after attention and MLP too."""
EXPERTS = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.gate",
    "ffn_up_exps": "mlp.experts.up",
    "ffn_down_exps": "mlp.experts.down_proj",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
"""The weights of Qwen's mixtures of experts."""
GATES, UPS, GATES_AND_UPS = "mlp.experts.gate.weight", "mlp.experts.up.weight", "mlp.experts.gate_up_proj"
DOWNS = "mlp.experts.down_proj.weight"
ROWS = ("ffn_gate_inp_shexp",)
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that belong to the configuration: one factor for each frequency."""
CHANGING = (
    "attention.scale",
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "attention.temperature_scale",
    "logit_scale",
    "embedding_scale",
    "residual_scale",
    "rope.scaling.yarn_log_multiplier",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_attn_factor",
)
"""What would change the numbers, and no model of these architectures should have."""
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What all of Meta's models have; their factors differ."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """How models of one kind are written: `settings` makes what is special in their configuration."""

    model_type: str
    settings: Callable[[GGUFFile, dict[str, Any]], dict[str, Any]]
    layer: Mapping[str, str]
    has_paired_rows: bool = False  # of queries and keys
    norm_offset: float = 0.0


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight of the model: blocks of the file, with what has to be undone."""

    blocks: Blocks
    offset: float = 0.0
    below: Blocks | None = None  # of the same experts, whose rows come after these
    is_row: bool = False  # a vector in the file, a matrix of one row in the model

    @property
    def shape(self) -> tuple[int, ...]:
        shape = (1, *self.blocks.shape) if self.is_row else self.blocks.shape
        return shape if self.below is None else (shape[0], shape[1] + self.below.shape[1], *shape[2:])

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        if self.offset:
            return (self.blocks.dequantized(torch.float32) - self.offset).to(dtype)
        numbers = self.blocks.dequantized(dtype)
        if self.below is not None:
            numbers = torch.cat([numbers, self.below.dequantized(dtype)], dim=1)
        return numbers.view(self.shape)


class Lazy:
    """A weight as transformers' loader takes it: made when it is indexed, in the model's precision at once."""

    def __init__(self, weight: Weight, dtype: torch.dtype) -> None:
        self._weight, self._dtype = weight, dtype
        self.shape = weight.shape

    def __getitem__(self, _: object) -> Tensor:
        return self._weight.dequantized(self._dtype)


def model_config(file: GGUFFile) -> PreTrainedConfig:
    """The configuration that transformers would have for this model.

    Raises:
        BadGGUF: the architecture or something in its metadata is not supported.
    """
    architecture = _architecture(file)
    common = _common(file)
    settings = common | architecture.settings(file, common)
    check_numbers(file.path, settings, file.elements, len(file.tensors))
    config: PreTrainedConfig = AutoConfig.for_model(architecture.model_type, **settings)
    return config


def model_weights(file: GGUFFile, config: PreTrainedConfig) -> dict[str, Weight]:
    """The weights under transformers' names; a tensor that has none keeps its own, and is found out by that."""
    architecture = _architecture(file)
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
        weights[f"{_name(stem, architecture.layer)}.{kind}"] = Weight(blocks, offset, is_row=own in ROWS)
    for name in [name for name in weights if name.endswith(DOWNS)]:
        weights[name.removesuffix(".weight")] = weights.pop(name)
    for name in [name for name in weights if name.endswith(GATES)]:
        if (up := weights.pop(name.replace(GATES, UPS), None)) is not None:
            weights[name.replace(GATES, GATES_AND_UPS)] = _joined(file, weights.pop(name).blocks, up.blocks)
    return weights


def _joined(file: GGUFFile, gate: Blocks, up: Blocks) -> Weight:
    """What llama.cpp has in two tensors [experts, rows, inputs], as transformers has it in one."""
    if len(gate.shape) != 3 or gate.shape != up.shape:
        raise BadGGUF(file.path, f"tensors {gate.name} and {up.name} are {gate.shape} and {up.shape}; expected experts")
    return Weight(gate, below=up)


def _name(stem: str, layer: Mapping[str, str]) -> str:
    if stem.startswith("blk."):
        _, number, own = stem.split(".", 2)
        return f"model.layers.{number}.{layer.get(own, own)}"
    return TOP.get(stem, stem)


def _unpaired(file: GGUFFile, blocks: Blocks, heads: int) -> Blocks:
    """Bring the two halves of each head back, where llama.cpp has their rows in turn; rows stay whole."""
    rows = len(blocks.data) if len(blocks.shape) > 1 else blocks.shape[0]
    if rows % (2 * heads):
        raise BadGGUF(file.path, f"tensor {blocks.name} has {rows} rows, which {heads} heads cannot share")
    data = blocks.data.reshape(heads, rows // heads // 2, 2, -1).swapaxes(1, 2).reshape(blocks.data.shape)
    return Blocks(blocks.name, blocks.kind, blocks.shape, data)


# --- Configurations ---------------------------------------------------------------------------------------------------


def _common(file: GGUFFile) -> dict[str, Any]:
    """What every architecture here has under the same names."""
    prefix = file.architecture
    if file.get(f"{prefix}.expert_count", int, 0) and prefix not in MIXTURES:
        raise BadGGUF(
            file.path,
            f"a mixture of experts of architecture {prefix} is not supported in GGUF; expected {' or '.join(MIXTURES)}",
        )
    for key in CHANGING:
        if (value := file.metadata.get(f"{prefix}.{key}")) is not None:
            raise BadGGUF(file.path, f"{prefix}.{key} is {value}, which is not supported")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise BadGGUF(file.path, "expected a tensor token_embd.weight of two dimensions")
    hidden, heads = _count(file, "embedding_length"), _count(file, "attention.head_count")
    head_dim = _head_dim(file, hidden, heads)
    if _count(file, "attention.value_length", head_dim) != head_dim:
        raise BadGGUF(file.path, "keys and values of different widths are not supported in GGUF")
    return {
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": _count(file, "feed_forward_length"),
        "num_hidden_layers": _count(file, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _count(file, "attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": file.get(f"{prefix}.attention.layer_norm_rms_epsilon", float),
        "max_position_embeddings": _count(file, "context_length"),
        "rope_parameters": _rope(file, head_dim),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": file.get("tokenizer.ggml.bos_token_id", int, -1) if _has(file, "bos") else None,
        "eos_token_id": file.get("tokenizer.ggml.eos_token_id", int, -1) if _has(file, "eos") else None,
        "pad_token_id": None,  # it would make a row of the embedding special, and serving pads nothing
    }


def _head_dim(file: GGUFFile, hidden: int, heads: int) -> int:
    """Files of Llama and Mistral whose heads are not hidden / heads wide may say so as the rotated width alone."""
    default = max(1, hidden // heads)
    rotated = _count(file, "rope.dimension_count", default)
    if file.architecture == "phi3":
        return _count(file, "attention.key_length", default)
    head_dim = _count(file, "attention.key_length", rotated)
    if rotated != head_dim and "rope.dimension_count" in " ".join(file.metadata):
        raise BadGGUF(file.path, f"heads of {head_dim} of which {rotated} are rotated are not supported in GGUF")
    return head_dim


def _has(file: GGUFFile, token: str) -> bool:
    return f"tokenizer.ggml.{token}_token_id" in file.metadata


def _count(file: GGUFFile, key: str, default: int | None = None) -> int:
    """A size from the metadata; a list of one size for each layer, as some files have it, must be all the same."""
    full = f"{file.architecture}.{key}"
    value = file.metadata.get(full)
    if isinstance(value, np.ndarray):
        sizes = {int(size) for size in value}
        if len(sizes) != 1:
            raise BadGGUF(file.path, f"{full} differs from layer to layer, which is not supported")
        size = sizes.pop()
    else:
        size = file.get(full, int, default)
    if size < 1:
        raise BadGGUF(file.path, f"expected {full} to be at least 1, got {size}")
    return size


def _rope(file: GGUFFile, head_dim: int) -> dict[str, Any]:
    prefix = f"{file.architecture}.rope"
    theta = file.get(f"{prefix}.freq_base", float, 10_000.0)
    kind = file.get(f"{prefix}.scaling.type", str, "none")
    factor = file.get(f"{prefix}.scaling.factor", float, file.get(f"{prefix}.scale_linear", float, 1.0))
    if kind == "none" and factor != 1.0:
        kind = "linear"
    if "rope_freqs.weight" in file.tensors:
        return _factored(file, theta, head_dim)
    if kind == "longrope" or ROPE_FACTORS[1] in file.tensors:
        return _long_rope(file, theta)
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    if kind == "linear":
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    if kind != "yarn":
        raise BadGGUF(file.path, f"{prefix}.scaling.type is {kind}; expected none, linear, yarn or longrope")
    original = _count(file, "rope.scaling.original_context_length")
    yarn = {"rope_type": "yarn", "rope_theta": theta, "factor": factor, "original_max_position_embeddings": original}
    for key, name in (("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")):
        if f"{prefix}.scaling.{key}" in file.metadata:
            yarn[name] = file.get(f"{prefix}.scaling.{key}", float)
    return yarn


def _factored(file: GGUFFile, theta: float, head_dim: int) -> dict[str, Any]:
    """A factor for each frequency: Llama 3's if they are those, else as transformers takes a list of them."""
    factors = file.tensors["rope_freqs.weight"].dequantized(torch.float32)
    frequencies = theta ** -(torch.arange(0, 2 * len(factors), 2, dtype=torch.float32) / (2 * len(factors)))
    largest = factors.max().item()
    if 2 * len(factors) == head_dim and torch.allclose(factors, _llama3_factors(frequencies, largest), rtol=1e-3):
        return {"rope_type": "llama3", "rope_theta": theta, "factor": largest, **LLAMA3}
    return {
        "rope_type": "longrope",
        "rope_theta": theta,
        "long_factor": factors.tolist(),
        "short_factor": factors.tolist(),
        "factor": 1.0,
        "attention_factor": 1.0,
        "original_max_position_embeddings": _count(file, "context_length"),
    }


def _llama3_factors(frequencies: Tensor, factor: float) -> Tensor:
    """How much Llama 3 slows each frequency down: slow ones by `factor`, fast ones not, with a ramp between."""
    low, high, original = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"], 8192
    turns = original * frequencies / (2 * math.pi)  # within the original context
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


def _long_rope(file: GGUFFile, theta: float) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "longrope", "rope_theta": theta}
    for name, key in (("rope_factors_long.weight", "long_factor"), ("rope_factors_short.weight", "short_factor")):
        if name not in file.tensors:
            raise BadGGUF(file.path, f"expected a tensor {name}, as its rotary embedding is longrope")
        rope[key] = file.tensors[name].dequantized(torch.float32).tolist()
    rope["original_max_position_embeddings"] = _count(file, "rope.scaling.original_context_length")
    rope["factor"] = _count(file, "context_length") / rope["original_max_position_embeddings"]
    key = f"{file.architecture}.rope.scaling.attn_factor"
    if key in file.metadata:
        rope["attention_factor"] = file.get(key, float)
    return rope


def _llama(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return {"attention_bias": "blk.0.attn_q.bias" in file.tensors, "mlp_bias": "blk.0.ffn_up.bias" in file.tensors}


def _mistral(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return {"sliding_window": _window(file)}


def _qwen2(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return {"use_sliding_window": False}


def _qwen3_moe(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return {
        "num_experts": _count(file, "expert_count"),
        "num_experts_per_tok": _count(file, "expert_used_count"),
        "moe_intermediate_size": _count(file, "expert_feed_forward_length"),
        "norm_topk_prob": True,  # as llama.cpp computes it; no file says so
    }


def _qwen2_moe(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    shared = _count(file, "expert_shared_feed_forward_length")
    return _qwen3_moe(file, common) | {
        "shared_expert_intermediate_size": shared,
        "norm_topk_prob": False,
        "use_sliding_window": False,
    }


def _gemma(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return {"hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True}


def _gemma2(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": _window(file) or 4096,
        "attn_logit_softcapping": file.get("gemma2.attn_logit_softcapping", float, 50.0),
        "final_logit_softcapping": file.get("gemma2.final_logit_softcapping", float, 30.0),
        "query_pre_attn_scalar": _query_scale(common, layers_of_largest=46),
    }


def _gemma3(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Five layers with a window, then one without; only that one's rotary embedding is scaled."""
    layers, local = (
        min(common["num_hidden_layers"], len(file.tensors)),
        {"rope_type": "default", "rope_theta": 10_000.0},
    )
    kinds = ["sliding_attention" if (layer + 1) % 6 else "full_attention" for layer in range(layers)]
    everywhere = common["rope_parameters"]
    if "gemma3.rope.freq_base" not in file.metadata:
        everywhere |= {"rope_theta": 1e6}
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": _window(file) or 1024,
        "layer_types": kinds,
        "rope_parameters": {"full_attention": everywhere, "sliding_attention": local},
        "query_pre_attn_scalar": _query_scale(common, layers_of_largest=62),
    }


def _query_scale(common: dict[str, Any], layers_of_largest: int) -> int:
    """Files do not say it; llama.cpp knows that the model of 27B divides otherwise."""
    if common["num_hidden_layers"] == layers_of_largest:
        return int(common["hidden_size"] // common["num_attention_heads"])
    return int(common["head_dim"])


def _phi3(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    head_dim = common["hidden_size"] // common["num_attention_heads"]
    rotated = _count(file, "rope.dimension_count", head_dim)
    rope = common["rope_parameters"] | {"partial_rotary_factor": rotated / head_dim}
    settings = {"rope_parameters": rope, "sliding_window": _window(file), "pad_token_id": None}
    if original := rope.get("original_max_position_embeddings"):
        settings["original_max_position_embeddings"] = original
    return settings


def _window(file: GGUFFile) -> int | None:
    window: int = file.get(f"{file.architecture}.attention.sliding_window", int, -1)
    return window if 0 < window < 2**31 else None


ARCHITECTURES = {
    "llama": Architecture("llama", _llama, LAYER, has_paired_rows=True),
    "mistral": Architecture("mistral", _mistral, LAYER, has_paired_rows=True),
    "qwen2": Architecture("qwen2", _qwen2, LAYER),
    "qwen3": Architecture("qwen3", lambda file, common: {}, LAYER),
    "qwen2moe": Architecture("qwen2_moe", _qwen2_moe, LAYER | EXPERTS),
    "qwen3moe": Architecture("qwen3_moe", _qwen3_moe, LAYER | EXPERTS),
    "gemma": Architecture("gemma", _gemma, LAYER, norm_offset=1.0),
    "gemma2": Architecture("gemma2", _gemma2, LAYER | FOUR_NORMS, norm_offset=1.0),
    "gemma3": Architecture("gemma3_text", _gemma3, LAYER | FOUR_NORMS, norm_offset=1.0),
    "phi3": Architecture("phi3", _phi3, LAYER | {"ffn_up": "mlp.gate_up_proj"}),
}

MIXTURES = ("qwen2moe", "qwen3moe")


def _architecture(file: GGUFFile) -> Architecture:
    if file.architecture not in ARCHITECTURES:
        raise BadGGUF(file.path, f"its architecture is {file.architecture}; expected one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[file.architecture]


def lazily(weights: Mapping[str, Weight], dtype: torch.dtype) -> Iterator[tuple[str, Lazy]]:
    """The weights for transformers' loader, which needs one after the other."""
    return ((name, Lazy(weight, dtype)) for name, weight in weights.items())
