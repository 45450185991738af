"""Mixtures whose experts are weighed by a sigmoid of the router's scores: dots.llm1, MiniMax M2, Trinity, K-EXAONE,
Hy3, Laguna.
"""

from typing import Any

from inference.weights.gguf.architecture import (
    EXPERTS,
    LAYER,
    QKV,
    QKVO,
    WINDOWS,
    Architecture,
    Made,
    as_it_is,
    experts,
    layer_types,
    mlp_layer_types,
    plain_within_windows,
    required_window,
    window_of,
)
from inference.weights.gguf.families.mixtures import (
    CORRECTED,
    CORRECTION,
    ROUTING,
    SHARED,
    SIGMOID,
    check_gating,
    routing,
)
from inference.weights.gguf.file import BadGGUF, GGUFFile
from inference.weights.gguf.rope import rotated_part


def _dots(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return routing(file, SIGMOID) | {"sliding_window": None}


def _minimax_m2(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    check_gating(file, SIGMOID, 0)
    return {
        "num_local_experts": file.count("expert_count"),
        "num_experts_per_tok": file.count("expert_used_count"),
        "intermediate_size": file.count("expert_feed_forward_length"),
    }


def _afmoe(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Layers without a window are not rotated; embeddings are scaled, as in all models that there are."""
    routed = routing(file, SIGMOID)
    if not file.get("afmoe.expert_weights_norm", bool, True):
        raise BadGGUF(file.path, "afmoe.expert_weights_norm is false; expected true, as in all models of this kind")
    return {
        "mup_enabled": True,
        "sliding_window": required_window(file),
        "layer_types": layer_types(file, common, every=4),
        "num_dense_layers": routed["first_k_dense_replace"],
        "num_experts": routed["n_routed_experts"],
        "num_experts_per_tok": routed["num_experts_per_tok"],
        "num_shared_experts": routed["n_shared_experts"],
        "moe_intermediate_size": routed["moe_intermediate_size"],
        "route_scale": routed["routed_scaling_factor"],
    }


def _exaone(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Layers without a window are not rotated."""
    routed = routing(file, SIGMOID)
    return routed | {
        "sliding_window": required_window(file),
        "layer_types": layer_types(file, common, every=4),
        "mlp_layer_types": mlp_layer_types(common, routed["first_k_dense_replace"]),
        "num_experts": routed["n_routed_experts"],
        "num_shared_experts": routed["n_shared_experts"],
    }


def _refuse_other_weights(file: GGUFFile) -> None:
    """Raises BadGGUF: the weights of experts are not sigmoids that are normed."""
    name = file.architecture
    function = file.get(f"{name}.expert_gating_func", int, SIGMOID) or SIGMOID
    if function != SIGMOID or not file.get(f"{name}.expert_weights_norm", bool, True):
        raise BadGGUF(file.path, f"{name}.expert_gating_func and expert_weights_norm: expected 2 and true, got others")


def _hy_v3(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Files have the width of all experts that all tokens share, not their number."""
    _refuse_other_weights(file)
    width = file.count("expert_feed_forward_length")
    shared = file.count("expert_shared_feed_forward_length", width)
    if shared % width:
        raise BadGGUF(file.path, f"hy_v3.expert_shared_feed_forward_length is {shared}; expected a multiple of {width}")
    layers = range(common["num_hidden_layers"])
    dense = [f"blk.{layer}.ffn_gate_inp.weight" not in file.tensors for layer in layers]
    return {
        "num_experts": file.count("expert_count"),
        "num_experts_per_tok": file.count("expert_used_count"),
        "num_shared_experts": shared // width,
        "moe_intermediate_size": width,
        "router_scaling_factor": file.get("hy_v3.expert_weights_scale", float, 1.0) or 1.0,
        "mlp_layer_types": ["dense" if is_dense else "sparse" for is_dense in dense],
    }


def _laguna(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Layers have different numbers of heads, whose outputs have gates: one for each head, or for each number."""
    _refuse_other_weights(file)
    heads = file.counts("attention.head_count")
    gate = file.tensors.get("blk.0.attn_gate.weight")
    part = rotated_part(file, "rope.dimension_count_swa", common["head_dim"])
    return {
        "sliding_window": window_of(file) or common["max_position_embeddings"],
        "layer_types": layer_types(file, common, every=4, without_is_first=True),
        "rope_parameters": plain_within_windows(file, common["rope_parameters"], part),
        "num_attention_heads_per_layer": heads,
        "mlp_layer_types": mlp_layer_types(common, file.get("laguna.leading_dense_block_count", int, 0)),
        "gating": "per-head" if gate is not None and gate.shape[0] == heads[0] else "per-element",
        "num_experts": file.count("expert_count"),
        "num_experts_per_tok": file.count("expert_used_count"),
        "moe_intermediate_size": file.count("expert_feed_forward_length"),
        "shared_expert_intermediate_size": file.count("expert_shared_feed_forward_length"),
        "moe_routed_scaling_factor": file.get("laguna.expert_weights_scale", float, 1.0) or 1.0,
    }


AFMOE = {
    "attn_gate": "self_attn.gate_proj",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_mlp_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
    "ffn_gate_inp": "mlp.router.gate",
}
OF_HY_V3 = frozenset(
    (
        *("expert_count", "expert_used_count", "expert_feed_forward_length", "expert_shared_feed_forward_length"),
        *("expert_gating_func", "expert_weights_norm", "expert_weights_scale", "nextn_predict_layers"),
        "leading_dense_block_count",
    )
)
FAMILY = {
    "afmoe": Architecture(
        "afmoe",
        _afmoe,
        ROUTING | WINDOWS,
        LAYER | SHARED | AFMOE,
        made=(*experts(), Made("mlp.expert_bias", (CORRECTION,), as_it_is)),
        biases={"attention_bias": QKVO},
    ),
    "exaone-moe": Architecture(
        "exaone_moe",
        _exaone,
        ROUTING | WINDOWS | {"nextn_predict_layers", "expert_shared_feed_forward_length"},
        LAYER | EXPERTS | SHARED,
        made=(*experts(), CORRECTED),
    ),
    "dots1": Architecture(
        "dots1",
        _dots,
        ROUTING,
        LAYER | EXPERTS | SHARED,
        made=(*experts(), CORRECTED),
        biases={"attention_bias": QKV},
    ),
    "minimax-m2": Architecture(
        "minimax_m2",
        _minimax_m2,
        frozenset({"expert_count", "expert_used_count", "expert_feed_forward_length", "expert_gating_func"}),
        LAYER | EXPERTS,
        made=(*experts(), Made("mlp.e_score_correction_bias", (CORRECTION,), as_it_is)),
        rotates_in_part=True,
    ),
    "hy_v3": Architecture(
        "hy_v3",
        _hy_v3,
        OF_HY_V3,
        LAYER | EXPERTS | SHARED,
        made=(*experts(), Made("mlp.e_score_correction_bias", ("exp_probs_b",), as_it_is)),
        biases={"attention_bias": QKVO},
    ),
    "laguna": Architecture(
        "laguna",
        _laguna,
        (ROUTING - {"expert_group_count", "expert_group_used_count"})
        | WINDOWS
        | {"expert_shared_feed_forward_length", "rope.freq_base_swa", "rope.dimension_count_swa"},
        LAYER | EXPERTS | SHARED | {"attn_gate": "self_attn.g_proj"},
        made=(*experts(), CORRECTED),
        sizes_by_layer=frozenset({"attention.head_count"}),
        rotates_in_part=True,
        biases={"attention_bias": QKVO},
    ),
}
