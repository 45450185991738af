"""Command R and Aya: attention and MLP are computed side by side, from one norm."""

from typing import Any

from inference.weights.gguf.architecture import (
    LAYER_NORM_EPSILON,
    QKVO,
    WINDOWS,
    Architecture,
    layer_types,
    required_window,
)
from inference.weights.gguf.file import GGUFFile

EPSILON = (LAYER_NORM_EPSILON, "layer_norm_eps")
BIASES = {"attention_bias": QKVO}


def _cohere(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    has_norms = any(name.endswith(".attn_q_norm.weight") for name in file.tensors)
    return _scale(file) | {"use_qk_norm": has_norms}


def _cohere2(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Layers with a window are rotated, the others are not."""
    window = required_window(file)
    return _scale(file) | {"sliding_window": window, "layer_types": layer_types(file, common, every=4)}


def _scale(file: GGUFFile) -> dict[str, float]:
    return {"logit_scale": file.get(f"{file.architecture}.logit_scale", float)}


FAMILY = {
    "command-r": Architecture("cohere", _cohere, frozenset({"logit_scale"}), epsilon=EPSILON, biases=BIASES),
    "cohere2": Architecture("cohere2", _cohere2, WINDOWS | {"logit_scale"}, epsilon=EPSILON, biases=BIASES),
}
