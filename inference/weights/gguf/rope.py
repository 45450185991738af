"""The rotary embedding of the model in a GGUF file, in the words of transformers.

A scheme such as Llama 3's is stored as one factor for each frequency; here it gets its name back.
"""

import math
from typing import Any

import torch
from torch import Tensor

from inference.weights.gguf.file import BadGGUF, GGUFFile
from inference.weights.gguf.numbers import dequantized

ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that belong to the configuration: one factor for each frequency."""
YARN = {"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow", "yarn_attn_factor": "attention_factor"}
"""Settings of YaRN that files may have."""
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Settings that all of Meta's models share; only their factors differ."""


def rope_parameters(file: GGUFFile, head_dim: int, rotates_in_part: bool) -> dict[str, Any]:
    """The scheme, and what part of a head is rotated if that may be less than all."""
    scheme = _scheme(file, head_dim)
    if rotates_in_part:
        scheme["partial_rotary_factor"] = rotated_part(file, "rope.dimension_count", head_dim)
    return scheme


def rotated_part(file: GGUFFile, key: str, head_dim: int) -> float:
    """What part of a head is rotated.

    Raises:
        BadGGUF: it is more than the head, or no pairs.
    """
    rotated = file.count(key, head_dim)
    if rotated > head_dim or rotated % 2:
        raise BadGGUF(file.path, f"{file.architecture}.{key} is {rotated}; expected pairs of at most {head_dim}")
    return _fraction(rotated, head_dim)


def _fraction(part: int, whole: int) -> float:
    """A fraction of which transformers gets the part again, whose product with the whole it rounds down."""
    fraction = part / whole
    return fraction if int(fraction * whole) == part else math.nextafter(fraction, 1)


def proportional_rope(file: GGUFFile, theta: float, head_dim: int) -> dict[str, Any]:
    """The scheme of a head of which the fastest frequencies turn and the others do not: their factors are enormous.

    Raises:
        BadGGUF: the file has other factors, or none.
    """
    name, count = "rope_freqs.weight", head_dim // 2
    if name not in file.tensors:
        raise BadGGUF(file.path, f"expected a tensor {name}, which says how much of a head is rotated")
    factors = _factors(file, name, count)
    turning = int((factors == 1).sum())
    if not ((factors[:turning] == 1).all() and (factors[turning:] >= 1e29).all()):
        raise BadGGUF(file.path, f"tensor {name} has factors other than 1 and, behind these, 1e30")
    return {"rope_type": "proportional", "rope_theta": theta, "partial_rotary_factor": _fraction(2 * turning, head_dim)}


def _scheme(file: GGUFFile, head_dim: int) -> dict[str, Any]:
    prefix = f"{file.architecture}.rope"
    theta = file.get(f"{prefix}.freq_base", float, 10_000.0)
    factor = file.get(f"{prefix}.scaling.factor", float, file.get(f"{prefix}.scale_linear", float, 1.0))
    # A factor without a type is linear; of one next to the type "none" llama.cpp takes no notice either.
    kind = file.get(f"{prefix}.scaling.type", str, "none" if factor == 1.0 else "linear")
    count = file.count("rope.dimension_count", head_dim) // 2
    if "rope_freqs.weight" in file.tensors:
        if kind != "none":
            raise BadGGUF(file.path, f"{prefix}.scaling.type is {kind}, which is not supported with rope_freqs.weight")
        return _factored(file, theta, count)
    if kind == "longrope" or not file.tensors.keys().isdisjoint(ROPE_FACTORS):
        return _long_rope(file, theta, count)
    if (attention_factor := file.get(f"{prefix}.scaling.attn_factor", float, 1.0)) != 1:
        raise BadGGUF(
            file.path, f"{prefix}.scaling.attn_factor is {attention_factor}, which is supported with longrope only"
        )
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    if kind == "linear":
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    if kind != "yarn":
        raise BadGGUF(file.path, f"{prefix}.scaling.type is {kind}; expected none, linear, yarn or longrope")
    original = file.count("rope.scaling.original_context_length")
    yarn = {"rope_type": "yarn", "rope_theta": theta, "factor": factor, "original_max_position_embeddings": original}
    for key, name in YARN.items():
        if f"{prefix}.scaling.{key}" in file.metadata:
            yarn[name] = file.get(f"{prefix}.scaling.{key}", float)
    return yarn


def _factored(file: GGUFFile, theta: float, count: int) -> dict[str, Any]:
    """A factor for each frequency: Llama 3's if they are those, else as transformers takes a list of them."""
    factors = _factors(file, "rope_freqs.weight", count)
    frequencies = theta ** -(torch.arange(0, 2 * count, 2, dtype=torch.float32) / (2 * count))
    largest = factors.max().item()
    if torch.allclose(factors, _llama3_factors(frequencies, largest), rtol=1e-3):
        return {"rope_type": "llama3", "rope_theta": theta, "factor": largest, **LLAMA3}
    return {
        "rope_type": "longrope",
        "rope_theta": theta,
        "long_factor": factors.tolist(),
        "short_factor": factors.tolist(),
        "factor": 1.0,
        "attention_factor": 1.0,
        "original_max_position_embeddings": file.count("context_length"),
    }


def _factors(file: GGUFFile, name: str, count: int) -> Tensor:
    factors = dequantized(file.tensors[name], torch.float32).flatten()
    if not (factors.isfinite().all() and factors.min() > 0):
        raise BadGGUF(file.path, f"tensor {name} has factors that no frequency can have; expected numbers above 0")
    if len(factors) != count:
        raise BadGGUF(file.path, f"tensor {name} has {len(factors)} factors; expected {count}, one for each frequency")
    return factors


def _llama3_factors(frequencies: Tensor, factor: float) -> Tensor:
    """How much Llama 3 slows each frequency down: slow ones by `factor`, fast ones not, with a ramp between."""
    low, high, original = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"], 8192
    turns = original * frequencies / (2 * math.pi)  # within the original context
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


def _long_rope(file: GGUFFile, theta: float, count: int) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "longrope", "rope_theta": theta}
    for name, key in (("rope_factors_long.weight", "long_factor"), ("rope_factors_short.weight", "short_factor")):
        if name not in file.tensors:
            raise BadGGUF(file.path, f"expected a tensor {name}, as its rotary embedding is longrope")
        rope[key] = _factors(file, name, count).tolist()
    context = file.count("context_length")
    original = file.count("rope.scaling.original_context_length", context)
    rope |= {"original_max_position_embeddings": original, "factor": context / original}
    # Where a file does not say it, llama.cpp scales nothing; transformers would go by the lengths.
    rope["attention_factor"] = file.get(f"{file.architecture}.rope.scaling.attn_factor", float, 1.0)
    return rope
