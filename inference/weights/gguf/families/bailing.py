"""Ling and Ring, whose files say bailing: the first ones are Granites with experts, the second ones GLMs."""

from typing import Any

from inference.weights.gguf.architecture import EXPERTS, LAYER, Architecture, experts
from inference.weights.gguf.families.llama import GRANITE_MOE, GRANITE_MOE_LAYER
from inference.weights.gguf.families.mixtures import CORRECTED, ROUTING, SHARED, SIGMOID, SOFTMAX, routing
from inference.weights.gguf.file import BadGGUF, GGUFFile


def _bailing(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Granite makes weights of the chosen experts' scores alone, which is the same as to make them sum up to 1."""
    routed = routing(file, SOFTMAX)
    expected = {"norm_topk_prob": True, "first_k_dense_replace": 0, "routed_scaling_factor": 1.0}
    if {key: routed[key] for key in expected} != expected:
        raise BadGGUF(
            file.path,
            "bailingmoe has leading_dense_block_count, expert_weights_scale or expert_weights_norm that are not "
            "supported; expected 0, 1 and true, as in all models of this kind",
        )
    width = routed["moe_intermediate_size"]
    return {
        "intermediate_size": width,
        "shared_intermediate_size": width * routed["n_shared_experts"],
        "num_local_experts": routed["n_routed_experts"],
        "num_experts_per_tok": routed["num_experts_per_tok"],
        "attention_multiplier": common["head_dim"] ** -0.5,
    }


def _bailing2(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return routing(file, SIGMOID) | {"use_qk_norm": True, "attention_bias": False}


FAMILY = {
    "bailingmoe": Architecture(
        "granitemoeshared",
        _bailing,
        ROUTING,
        GRANITE_MOE_LAYER,
        made=GRANITE_MOE,
        has_paired_rows=True,
    ),
    "bailingmoe2": Architecture(
        "glm4_moe",
        _bailing2,
        ROUTING | {"nextn_predict_layers", "expert_shared_feed_forward_length"},
        LAYER | EXPERTS | SHARED,
        made=(*experts(), CORRECTED),
        rotates_in_part=True,
    ),
}
