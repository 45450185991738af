"""Command R and A, Aya: attention and MLP are computed side by side, from one norm."""

import dataclasses
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
    mlp_layer_types,
    required_window,
)
from inference.weights.gguf.families.mixtures import ROUTING, SHARED, SIGMOID, SOFTMAX
from inference.weights.gguf.file import BadGGUF, GGUFFile

EPSILON = (LAYER_NORM_EPSILON, "layer_norm_eps")
BIASES = {"attention_bias": QKVO}


def _cohere(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return _scale(file) | {"use_qk_norm": file.has_in_layers("attn_q_norm.weight")}


def _cohere2(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Layers with a window are rotated, the others are not."""
    window = required_window(file)
    return _scale(file) | {"sliding_window": window, "layer_types": layer_types(file, common, every=4)}


def _cohere2_moe(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Experts for all tokens are weighed as much as the chosen ones. Layers without experts are rotated, too."""
    function = file.get("cohere2moe.expert_gating_func", int, SIGMOID) or SIGMOID
    sums_up = file.get("cohere2moe.expert_weights_norm", bool, False)
    if function not in (SOFTMAX, SIGMOID) or (function == SOFTMAX and not sums_up):
        raise BadGGUF(
            file.path,
            f"cohere2moe.expert_gating_func is {function}; expected {SIGMOID}, or {SOFTMAX} with expert_weights_norm",
        )
    return _scale(file) | {
        "sliding_window": required_window(file),
        "layer_types": layer_types(file, common, every=4, without_is_first=True),
        "mlp_layer_types": mlp_layer_types(common, file.get("cohere2moe.leading_dense_block_count", int, 0)),
        "prefix_dense_intermediate_size": common["intermediate_size"],
        "prefix_dense_sliding_window_pattern": 1,
        "intermediate_size": file.count("expert_feed_forward_length"),
        "num_experts": file.count("expert_count"),
        "num_experts_per_tok": file.count("expert_used_count"),
        "num_shared_experts": file.get("cohere2moe.expert_shared_count", int, 0),
        "shared_expert_combination_strategy": "average",
        "expert_selection_fn": "sigmoid" if function == SIGMOID else "softmax",
        "norm_topk_prob": sums_up,
    }


def _scale(file: GGUFFile) -> dict[str, float]:
    return {"logit_scale": file.get(f"{file.architecture}.logit_scale", float)}


COHERE2_MOE = Architecture(
    "cohere2_moe",
    _cohere2_moe,
    (ROUTING - {"expert_weights_scale", "expert_group_count", "expert_group_used_count"})
    | WINDOWS
    | {"logit_scale", "expert_shared_feed_forward_length", "nextn_predict_layers"},
    LAYER | EXPERTS | SHARED,
    made=experts(),
    epsilon=EPSILON,
    biases=BIASES,
)
RMS_COHERE2_MOE = dataclasses.replace(COHERE2_MOE, epsilon=("attention.layer_norm_rms_epsilon", "rms_norm_eps"))
"""The same with norms that do not subtract the mean; its files say `cohere2moe`, too."""
FAMILY = {
    "cohere2moe": COHERE2_MOE,
    "command-r": Architecture("cohere", _cohere, frozenset({"logit_scale"}), epsilon=EPSILON, biases=BIASES),
    "cohere2": Architecture("cohere2", _cohere2, WINDOWS | {"logit_scale"}, epsilon=EPSILON, biases=BIASES),
}
