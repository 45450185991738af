"""Architectures whose norms subtract the mean, with biases: StarCoder 2, StableLM 2, Nemotron, Jais 2.

CodeShell is a StarCoder 2, and Orion a StableLM, by other names.
"""

from typing import Any

from inference.weights.gguf.architecture import LAYER, LAYER_NORM_EPSILON, QKV, QKVO, Architecture
from inference.weights.gguf.file import GGUFFile


def _stablelm(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Files of models that have a second norm may say otherwise; llama.cpp goes by the norm."""
    return {"use_parallel_residual": not file.has_in_layers("ffn_norm.weight")}


def _orion(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """A StableLM whose heads are rotated as a whole, and whose feed-forward comes after attention."""
    return {
        "use_parallel_residual": False,
        "rope_parameters": common["rope_parameters"] | {"partial_rotary_factor": 1.0},
    }


STARCODER2 = Architecture(
    "starcoder2",
    layer=LAYER | {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
    epsilon=(LAYER_NORM_EPSILON, "norm_epsilon"),
    biases={"use_bias": (*QKVO, "ffn_up", "ffn_down")},
)
FAMILY = {
    "starcoder2": STARCODER2,
    "codeshell": STARCODER2,
    "stablelm": Architecture(
        "stablelm",
        _stablelm,
        frozenset({"use_parallel_residual"}),
        rotates_in_part=True,
        epsilon=(LAYER_NORM_EPSILON, "layer_norm_eps"),
        biases={"use_qkv_bias": QKV},
    ),
    "orion": Architecture(
        "stablelm",
        _orion,
        epsilon=(LAYER_NORM_EPSILON, "layer_norm_eps"),
        biases={"use_qkv_bias": QKV},
    ),
    "jais2": Architecture(
        "jais2",
        epsilon=(LAYER_NORM_EPSILON, "layer_norm_eps"),
        biases={"attention_bias": QKVO, "mlp_bias": ("ffn_up", "ffn_down")},
    ),
    "nemotron": Architecture(
        "nemotron",
        norm_offset=1.0,
        rotates_in_part=True,
        epsilon=(LAYER_NORM_EPSILON, "norm_eps"),
        biases={"attention_bias": QKVO, "mlp_bias": ("ffn_up", "ffn_down")},
    ),
}
