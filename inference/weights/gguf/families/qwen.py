"""Qwen 1 to 3, with experts or without, the text side of those that see, and Mellum 2, a Qwen 3 with windows.

Those that see rotate by three positions, of time, height and width, which are one and the same in a text.
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
    as_a_row,
    experts,
    layer_types,
    plain_within_windows,
    window_of,
)
from inference.weights.gguf.file import GGUFFile

SHARED_EXPERT = {
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
OF_EXPERTS = frozenset({"expert_count", "expert_used_count", "expert_feed_forward_length", "expert_weights_norm"})


def _qwen(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """The first Qwen is a Qwen 2 whose files have the widths of gate and up together."""
    return {"use_sliding_window": False, "intermediate_size": common["intermediate_size"] // 2}


def _qwen2(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return {"use_sliding_window": False}


def _qwen3_moe(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return {
        "num_experts": file.count("expert_count"),
        "num_experts_per_tok": file.count("expert_used_count"),
        "moe_intermediate_size": file.count("expert_feed_forward_length"),
        "norm_topk_prob": file.get(f"{file.architecture}.expert_weights_norm", bool, True),  # few files say so
    }


def _qwen2_moe(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    shared = file.count("expert_shared_feed_forward_length")
    return _qwen3_moe(file, common) | {
        "shared_expert_intermediate_size": shared,
        "norm_topk_prob": file.get("qwen2moe.expert_weights_norm", bool, False),
        "use_sliding_window": False,
    }


def _mellum(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return _qwen3_moe(file, common) | {
        "sliding_window": window_of(file),
        "layer_types": layer_types(file, common, every=4),
        "rope_parameters": plain_within_windows(file, common["rope_parameters"]),
    }


POSITIONS = frozenset({"rope.dimension_sections", "n_deepstack_layers"})
QWEN3_MOE = LAYER | EXPERTS
ATTENTION = {"attention_bias": QKVO}
FAMILY = {
    "qwen": Architecture("qwen2", _qwen, always_biased=QKV),
    "qwen2": Architecture("qwen2", _qwen2, always_biased=QKV),
    "qwen2vl": Architecture("qwen2", _qwen2, POSITIONS, always_biased=QKV),
    "qwen3": Architecture("qwen3", biases=ATTENTION),
    "qwen3vl": Architecture("qwen3", keys=POSITIONS, biases=ATTENTION),
    "qwen2moe": Architecture(
        "qwen2_moe",
        _qwen2_moe,
        OF_EXPERTS | {"expert_shared_feed_forward_length"},
        LAYER | EXPERTS | SHARED_EXPERT,
        made=(*experts(), Made("mlp.shared_expert_gate.weight", ("ffn_gate_inp_shexp.weight",), as_a_row)),
        always_biased=QKV,
    ),
    "qwen3moe": Architecture("qwen3_moe", _qwen3_moe, OF_EXPERTS, QWEN3_MOE, made=experts(), biases=ATTENTION),
    "qwen3vlmoe": Architecture(
        "qwen3_moe", _qwen3_moe, OF_EXPERTS | POSITIONS, QWEN3_MOE, made=experts(), biases=ATTENTION
    ),
    "mellum": Architecture(
        "mellum",
        _mellum,
        OF_EXPERTS | WINDOWS | {"rope.freq_base_swa"},
        QWEN3_MOE,
        made=experts(),
        biases=ATTENTION,
    ),
}
