"""Architectures of which there is one: EXAONE 4, ERNIE 4.5, Hunyuan and Seed-OSS."""

from typing import Any

from inference.weights.gguf.architecture import LAYER, MLP, QKV, QKVO, WINDOWS, Architecture, layer_types, window_of
from inference.weights.gguf.file import GGUFFile


def _exaone4(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Where layers have windows, those without one are not rotated."""
    window = window_of(file)
    kinds = layer_types(file, common, every=4)
    return {
        "sliding_window": window,
        "sliding_window_pattern": None,
        "layer_types": kinds if window else ["full_attention"] * len(kinds),
    }


FAMILY = {
    "exaone4": Architecture(
        "exaone4",
        _exaone4,
        WINDOWS,
        LAYER | {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"},
    ),
    "ernie4_5": Architecture("ernie4_5", biases={"use_bias": (*QKVO, *MLP)}),
    "hunyuan-dense": Architecture(
        "hunyuan_v1_dense",
        layer=LAYER | {"attn_q_norm": "self_attn.query_layernorm", "attn_k_norm": "self_attn.key_layernorm"},
        biases={"attention_bias": QKVO},
    ),
    "seed_oss": Architecture(
        "seed_oss",
        layer=LAYER | {"post_attention_norm": "post_attention_layernorm"},
        biases={"attention_bias": QKV, "attention_out_bias": ("attn_output",), "mlp_bias": MLP},
    ),
}
