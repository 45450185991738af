"""Phi 2 and 3, Phi 3.5 with experts, and Falcon 7B, which is a Phi 2 without biases."""

from typing import Any

from inference.weights.gguf.architecture import (
    LAYER,
    LAYER_NORM_EPSILON,
    QKVO,
    TOP,
    Architecture,
    experts,
    window_of,
)
from inference.weights.gguf.file import BadGGUF, GGUFFile
from inference.weights.gguf.unserved import ELSEWHERE

MIXED_SCALE = 1.243163121016122
"""What the angles of longrope are multiplied by in all models of Phi with experts. Files do not have it."""


def _phi3(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    rope = common["rope_parameters"]
    settings = {"sliding_window": window_of(file), "pad_token_id": None}
    if original := rope.get("original_max_position_embeddings"):
        settings["original_max_position_embeddings"] = original
    return settings


def _phimoe(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Two experts are chosen, one after the other, which no other number can be."""
    if (used := file.count("expert_used_count")) != 2:
        raise BadGGUF(file.path, f"phimoe.expert_used_count is {used}; expected 2")
    settings = _phi3(file, common) | {
        "num_local_experts": file.count("expert_count"),
        "num_experts_per_tok": used,
        "lm_head_bias": "output.bias" in file.tensors,
    }
    if (rope := common["rope_parameters"])["rope_type"] == "longrope":
        settings["rope_parameters"] = rope | {"short_mscale": MIXED_SCALE, "long_mscale": MIXED_SCALE}
    return settings


def _falcon(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """The models of 40B and 180B have a norm for attention alone."""
    if "blk.0.attn_norm_2.weight" in file.tensors:
        raise BadGGUF(file.path, f"a Falcon with two norms in a layer (40B, 180B) is not supported; {ELSEWHERE}")
    return {"hidden_act": "gelu"}


PHI2 = {
    "attn_output": "self_attn.dense",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}
PHI2_TOP = TOP | {"output_norm": "model.final_layernorm"}
FAMILY = {
    "falcon": Architecture(
        "phi",
        _falcon,
        layer=LAYER | PHI2,
        top=PHI2_TOP,
        rotates_in_part=True,
        epsilon=(LAYER_NORM_EPSILON, "layer_norm_eps"),
        always_biased=(*QKVO, "ffn_up", "ffn_down", "output"),
    ),
    "phi2": Architecture(
        "phi",
        layer=LAYER | PHI2,
        top=PHI2_TOP,
        rotates_in_part=True,
        epsilon=(LAYER_NORM_EPSILON, "layer_norm_eps"),
        always_biased=(*QKVO, "ffn_up", "ffn_down"),
    ),
    "phi3": Architecture(
        "phi3",
        _phi3,
        frozenset({"attention.sliding_window", "rope.scaling.attn_factor"}),
        LAYER | {"ffn_up": "mlp.gate_up_proj"},
        rotates_in_part=True,
    ),
    "phimoe": Architecture(
        "phimoe",
        _phimoe,
        frozenset({"attention.sliding_window", "rope.scaling.attn_factor", "expert_count", "expert_used_count"}),
        LAYER | {"ffn_gate_inp": "mlp.router"},
        made=experts(),
        biases={"attention_bias": QKVO},
    ),
}
