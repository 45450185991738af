"""Mixtures of experts that are weighed by a sigmoid of the router's scores: dots.llm1 and MiniMax M2."""

from typing import Any

from inference.weights.gguf.architecture import EXPERTS, LAYER, QKV, Architecture, Made, as_it_is, experts
from inference.weights.gguf.families.mixtures import CORRECTED, CORRECTION, ROUTING, SHARED, SIGMOID, routing
from inference.weights.gguf.file import BadGGUF, GGUFFile


def _dots(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return routing(file, SIGMOID) | {"sliding_window": None}


def _minimax_m2(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    function = file.get("minimax-m2.expert_gating_func", int, SIGMOID)
    if function not in (0, SIGMOID):
        raise BadGGUF(file.path, f"minimax-m2.expert_gating_func is {function}; expected {SIGMOID}")
    return {
        "num_local_experts": file.count("expert_count"),
        "num_experts_per_tok": file.count("expert_used_count"),
        "intermediate_size": file.count("expert_feed_forward_length"),
    }


FAMILY = {
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
}
