"""OLMo 1, whose norms have no weights; OLMo 2 and 3, with norms after attention and MLP, none before."""

from typing import Any

from inference.weights.gguf.architecture import (
    EXPERTS,
    LAYER,
    LAYER_NORM_EPSILON,
    QKVO,
    WINDOWS,
    Architecture,
    experts,
    layer_types,
    plain_within_windows,
    window_of,
)
from inference.weights.gguf.file import BadGGUF, GGUFFile

NORMS_AFTER = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
BIASES = {"attention_bias": QKVO}


def _olmo(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    if abs(common["layer_norm_eps"] - 1e-5) > 1e-9:
        raise BadGGUF(file.path, f"olmo.{LAYER_NORM_EPSILON} is {common['layer_norm_eps']}; expected 1e-05, as in all")
    return {"clip_qkv": file.get("olmo.attention.clamp_kqv", float, 0.0) or None}


def _olmo3(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Only layers without a window have a rotary embedding that is stretched."""
    return {
        "sliding_window": window_of(file),
        "layer_types": layer_types(file, common, every=4),
        "rope_parameters": plain_within_windows(file, common["rope_parameters"]),
    }


def _olmoe(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return {
        "num_experts": file.count("expert_count"),
        "num_experts_per_tok": file.count("expert_used_count"),
        "norm_topk_prob": file.get("olmoe.expert_weights_norm", bool, False),
        "clip_qkv": file.get("olmoe.attention.clamp_kqv", float, 0.0) or None,
    }


OLMO3 = Architecture("olmo3", _olmo3, WINDOWS | {"rope.freq_base_swa"}, LAYER | NORMS_AFTER, biases=BIASES)
"""Its files say `olmo2`, as those of models without windows do."""
FAMILY = {
    "olmo": Architecture(
        "olmo",
        _olmo,
        frozenset({"attention.clamp_kqv"}),
        has_paired_rows=True,
        epsilon=(LAYER_NORM_EPSILON, "layer_norm_eps"),
        biases=BIASES,
    ),
    "olmo2": Architecture("olmo2", layer=LAYER | NORMS_AFTER, biases=BIASES),
    "olmoe": Architecture(
        "olmoe",
        _olmoe,
        frozenset({"expert_count", "expert_used_count", "expert_weights_norm", "attention.clamp_kqv"}),
        LAYER | EXPERTS,
        made=experts(),
        biases=BIASES,
    ),
}
