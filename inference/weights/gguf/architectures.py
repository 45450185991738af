"""The architectures that are served from GGUF files: what their weights are called, and what is special in them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from inference.weights.gguf.file import BadGGUF, GGUFFile

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
"""llama.cpp's names for a layer's weights, and those of transformers."""
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
QKV = ("attn_q", "attn_k", "attn_v")
BIASED = {"attention_bias": (*QKV, "attn_output"), "mlp_bias": ("ffn_gate", "ffn_up", "ffn_down")}
"""The settings of transformers that give matrices biases, and llama.cpp's names for those matrices."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """How files have the models of one kind. `settings` makes the settings that only these models have."""

    model_type: str
    settings: Callable[[GGUFFile, dict[str, Any]], dict[str, Any]]
    layer: Mapping[str, str]
    has_paired_rows: bool = False  # of queries and keys
    norm_offset: float = 0.0
    biases: Sequence[str] = ()  # those of `BIASED` that it has
    always_biased: Sequence[str] = ()

    def bias_settings(self, file: GGUFFile) -> dict[str, bool]:
        """Whether any layer in the file has biases, by the names of the settings for them."""
        named = {name.split(".", 2)[2] for name in file.tensors if name.startswith("blk.") and name.endswith(".bias")}
        return {setting: not named.isdisjoint(f"{own}.bias" for own in BIASED[setting]) for setting in self.biases}

    def biased(self, config: PreTrainedConfig) -> set[str]:
        """The matrices of each layer that have a bias in transformers' model, by llama.cpp's names."""
        settings = [setting for setting in self.biases if getattr(config, setting)]
        return {*self.always_biased, *(own for setting in settings for own in BIASED[setting])}


def _no_more(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return {}


def _mistral(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return {"sliding_window": _window(file)}


def _qwen2(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return {"use_sliding_window": False}


def _qwen3_moe(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return {
        "num_experts": file.count("expert_count"),
        "num_experts_per_tok": file.count("expert_used_count"),
        "moe_intermediate_size": file.count("expert_feed_forward_length"),
        "norm_topk_prob": file.get("qwen3moe.expert_weights_norm", bool, True),  # few files say so
    }


def _qwen2_moe(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    shared = file.count("expert_shared_feed_forward_length")
    return _qwen3_moe(file, common) | {
        "shared_expert_intermediate_size": shared,
        "norm_topk_prob": file.get("qwen2moe.expert_weights_norm", bool, False),
        "use_sliding_window": False,
    }


def _gemma(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return {"hidden_activation": "gelu_pytorch_tanh"}


def _gemma2(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": _window(file) or 4096,
        "attn_logit_softcapping": file.get("gemma2.attn_logit_softcapping", float, 50.0),
        "final_logit_softcapping": file.get("gemma2.final_logit_softcapping", float, 30.0),
        "query_pre_attn_scalar": _query_scale(common, layers_of_largest=46),
    }


def _gemma3(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Five layers with a window, then one without; only that one's rotary embedding is scaled. Or none has a window."""
    layers = min(common["num_hidden_layers"], len(file.tensors))
    window = _window(file)
    kinds = ["sliding_attention" if window and (layer + 1) % 6 else "full_attention" for layer in range(layers)]
    local = {"rope_type": "default", "rope_theta": file.get("gemma3.rope.freq_base_swa", float, 10_000.0)}
    everywhere = common["rope_parameters"]
    if "gemma3.rope.freq_base" not in file.metadata:
        everywhere |= {"rope_theta": 1e6}
    softcap = file.get("gemma3.final_logit_softcapping", float, 0.0)
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": window or common["max_position_embeddings"],
        "layer_types": kinds,
        "rope_parameters": {"full_attention": everywhere, "sliding_attention": local},
        "query_pre_attn_scalar": _query_scale(common, layers_of_largest=62),
        "final_logit_softcapping": softcap or None,
    }


def _query_scale(common: dict[str, Any], layers_of_largest: int) -> int:
    """Files do not say it; llama.cpp knows that the model of 27B divides otherwise."""
    if common["num_hidden_layers"] == layers_of_largest:
        return int(common["hidden_size"] // common["num_attention_heads"])
    return int(common["head_dim"])


def _phi3(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    head_dim = common["head_dim"]
    rotated = file.count("rope.dimension_count", head_dim)
    rope = common["rope_parameters"] | {"partial_rotary_factor": rotated / head_dim}
    settings = {"rope_parameters": rope, "sliding_window": _window(file), "pad_token_id": None}
    if original := rope.get("original_max_position_embeddings"):
        settings["original_max_position_embeddings"] = original
    return settings


def _window(file: GGUFFile) -> int | None:
    window: int = file.get(f"{file.architecture}.attention.sliding_window", int, -1)
    return window if 0 < window < 2**31 else None


ATTENTION = ("attention_bias",)
ARCHITECTURES = {
    "llama": Architecture("llama", _no_more, LAYER, has_paired_rows=True, biases=(*ATTENTION, "mlp_bias")),
    "mistral": Architecture("mistral", _mistral, LAYER, has_paired_rows=True),
    "qwen2": Architecture("qwen2", _qwen2, LAYER, always_biased=QKV),
    "qwen3": Architecture("qwen3", _no_more, LAYER, biases=ATTENTION),
    "qwen2moe": Architecture("qwen2_moe", _qwen2_moe, LAYER | EXPERTS, always_biased=QKV),
    "qwen3moe": Architecture("qwen3_moe", _qwen3_moe, LAYER | EXPERTS, biases=ATTENTION),
    "gemma": Architecture("gemma", _gemma, LAYER, norm_offset=1.0, biases=ATTENTION),
    "gemma2": Architecture("gemma2", _gemma2, LAYER | FOUR_NORMS, norm_offset=1.0, biases=ATTENTION),
    "gemma3": Architecture("gemma3_text", _gemma3, LAYER | FOUR_NORMS, norm_offset=1.0, biases=ATTENTION),
    "phi3": Architecture("phi3", _phi3, LAYER | {"ffn_up": "mlp.gate_up_proj"}),
}

MIXTURES = ("qwen2moe", "qwen3moe")


OTHER_FILES = {
    "adapter": "merge it into its model with llama.cpp's llama-export-lora, and serve the file that this makes",
    "mmproj": "it is what a model sees and hears with; serve the model's own file, which is next to it",
    "imatrix": "it says which weights matter when a model is quantized; serve the model's own file",
}
"""Other types of GGUF files (`general.type`), and what to do about them."""


def architecture_of(file: GGUFFile) -> Architecture:
    """How the file has its model.

    Raises:
        BadGGUF: it has none, or one that is not served from GGUF files.
    """
    kind = file.get("general.type", str, "model")
    if kind in OTHER_FILES:
        raise BadGGUF(file.path, f"expected a model, got general.type {kind}: {OTHER_FILES[kind]}")
    if not file.tensors:
        raise BadGGUF(file.path, "expected the weights of a model, got a file without tensors, a vocabulary perhaps")
    if file.architecture not in ARCHITECTURES:
        raise BadGGUF(file.path, f"its architecture is {file.architecture}; expected one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[file.architecture]
