"""Architectures whose norms subtract the mean, with biases: StarCoder 2, StableLM 2, Nemotron and Minitron."""

from typing import Any

from inference.weights.gguf.architecture import LAYER, LAYER_NORM_EPSILON, QKV, QKVO, Architecture
from inference.weights.gguf.file import GGUFFile


def _stablelm(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Files of models that have a second norm may say otherwise; llama.cpp goes by the norm."""
    return {"use_parallel_residual": not any(name.endswith(".ffn_norm.weight") for name in file.tensors)}


FAMILY = {
    "starcoder2": Architecture(
        "starcoder2",
        layer=LAYER | {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
        epsilon=(LAYER_NORM_EPSILON, "norm_epsilon"),
        biases={"use_bias": (*QKVO, "ffn_up", "ffn_down")},
    ),
    "stablelm": Architecture(
        "stablelm",
        _stablelm,
        frozenset({"use_parallel_residual"}),
        rotates_in_part=True,
        epsilon=(LAYER_NORM_EPSILON, "layer_norm_eps"),
        biases={"use_qkv_bias": QKV},
    ),
    "nemotron": Architecture(
        "nemotron",
        norm_offset=1.0,
        rotates_in_part=True,
        epsilon=(LAYER_NORM_EPSILON, "norm_eps"),
        biases={"attention_bias": QKVO, "mlp_bias": ("ffn_up", "ffn_down")},
    ),
}
