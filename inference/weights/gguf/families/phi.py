"""Phi 2 and 3."""

from typing import Any

from inference.weights.gguf.architecture import LAYER, LAYER_NORM_EPSILON, QKVO, TOP, Architecture, window_of
from inference.weights.gguf.file import GGUFFile


def _phi3(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    rope = common["rope_parameters"]
    settings = {"sliding_window": window_of(file), "pad_token_id": None}
    if original := rope.get("original_max_position_embeddings"):
        settings["original_max_position_embeddings"] = original
    return settings


PHI2 = {
    "attn_output": "self_attn.dense",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}
FAMILY = {
    "phi2": Architecture(
        "phi",
        layer=LAYER | PHI2,
        top=TOP | {"output_norm": "model.final_layernorm"},
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
}
