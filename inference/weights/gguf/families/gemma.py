"""Gemma 1 to 3. The converter adds 1 to the weights of their norms."""

from typing import Any

from inference.weights.gguf.architecture import LAYER, QKVO, WINDOWS, Architecture, layer_types, window_of
from inference.weights.gguf.file import GGUFFile

FOUR_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
"""Gemma 2 and 3 have norms after attention and MLP too."""
BIASES = {"attention_bias": QKVO}


def _gemma(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return {"hidden_act": "gelu_pytorch_tanh"}


def _gemma2(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Every other layer has a window, which the first files do not name."""
    window = window_of(file) or 4096
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": window,
        "layer_types": layer_types(file, common, every=2, window=window),
        "attn_logit_softcapping": file.get("gemma2.attn_logit_softcapping", float, 50.0),
        "final_logit_softcapping": file.get("gemma2.final_logit_softcapping", float, 30.0) or None,
        "query_pre_attn_scalar": _query_scale(common, layers_of_largest=46),
    }


def _gemma3(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Five layers with a window, then one without; only that one's rotary embedding is scaled. Or none has a window."""
    everywhere = common["rope_parameters"]
    if "gemma3.rope.freq_base" not in file.metadata:
        everywhere |= {"rope_theta": 1e6}
    softcap = file.get("gemma3.final_logit_softcapping", float, 0.0)
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": window_of(file) or common["max_position_embeddings"],
        "layer_types": layer_types(file, common, every=6),
        "rope_parameters": {"full_attention": everywhere, "sliding_attention": sliding_rope(file)},
        "query_pre_attn_scalar": _query_scale(common, layers_of_largest=62),
        "final_logit_softcapping": softcap or None,
    }


def sliding_rope(file: GGUFFile) -> dict[str, Any]:
    """The rotary embedding of layers with a window, from Gemma 3 on."""
    return {"rope_type": "default", "rope_theta": file.get(f"{file.architecture}.rope.freq_base_swa", float, 10_000.0)}


def _query_scale(common: dict[str, Any], layers_of_largest: int) -> int:
    """Files do not say it; llama.cpp knows that the model of 27B divides by another number."""
    if common["num_hidden_layers"] == layers_of_largest:
        return int(common["hidden_size"] // common["num_attention_heads"])
    return int(common["head_dim"])


FAMILY = {
    "gemma": Architecture("gemma", _gemma, norm_offset=1.0, biases=BIASES),
    "gemma2": Architecture(
        "gemma2",
        _gemma2,
        WINDOWS | {"attn_logit_softcapping", "final_logit_softcapping"},
        LAYER | FOUR_NORMS,
        norm_offset=1.0,
        biases=BIASES,
    ),
    "gemma3": Architecture(
        "gemma3_text",
        _gemma3,
        WINDOWS | {"final_logit_softcapping", "rope.freq_base_swa"},
        LAYER | FOUR_NORMS,
        norm_offset=1.0,
        biases=BIASES,
    ),
}
