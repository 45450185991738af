"""Checks the numbers of a configuration, so that the error for an absurd one names it.

Numbers that are not in these tables are left to transformers, and to the comparison of sizes with the files.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from inference.weights.safetensors_header import BadFile
from inference.weights.usable_settings import PART
from inference.weights.variation import ACTIVATIONS

SIZES = (
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "num_hidden_layers",
    "intermediate_size",
    "vocab_size",
    "head_dim",
    "n_embd",
    "n_head",
    "n_layer",
    "num_layers",
)
LENGTHS = ("max_position_embeddings", "max_target_positions", "n_positions", "original_max_position_embeddings")
EPSILON = re.compile(r"(^|_)eps(ilon)?$")
SOFT_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
POSITIVE = ("rope_theta", "factor", "partial_rotary_factor", "query_pre_attn_scalar", *SOFT_CAPS)
ROTATION = re.compile(r"(beta_(fast|slow)|attention_factor|(low|high)_freq_factor|mscale(_all_dim)?)$")
ROTATIONS = ("short_factor", "long_factor")
OF_ROTATIONS = ("rope_type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor", *ROTATIONS)
"""Settings of a rotary embedding that cannot be null."""
CHUNKED, CHUNK = "chunked_attention", "attention_chunk_size"
"""Layers that look back to where a chunk begins, which few models have, and how long a chunk is."""
ACTIVATION_KEYS = ("hidden_act", "hidden_activation", "activation_function")
DTYPES = ("float32", "bfloat16", "float16", "float64", "auto")
OF_TEXTS = ("text_config", "attn_config", "ffn_config")
"""The parts that texts use. In others, of what a model sees and hears with, a number may mean something else."""
MOST_EXPERTS = 4096
MOST_TOKENS = 2**31 - 1
"""Tokens of a text. A configuration with more is damaged, and its table of angles alone would fill the memory."""


def check_numbers(
    path: Path,
    settings: Mapping[str, Any],
    elements: int,
    tensors: int | None = None,
    names: Mapping[str, str] = MappingProxyType({}),
    within: str = "",
) -> None:
    """Check that a model of `elements` weights can have these numbers.

    Args:
        tensors: the number of tensors in the files, if that is known.
        names: what the file calls settings, if it has other names for them.
        within: the part of the settings that these are, and a dot; "" if they are the whole.

    Raises:
        BadFile: it cannot have one of them; the message names it.
    """
    for key, value in settings.items():
        if key.endswith(PART) and key not in OF_TEXTS:
            continue
        if isinstance(value, dict):
            check_numbers(path, value, elements, tensors, names, f"{key}.")
        elif value is not None and (expected := _expected(key, value, elements, tensors)):
            name = names.get(f"{within}{key}", names.get(key, key))
            raise BadFile(path, f"{name}: expected {expected}, got {value!r}")


def check_layers(path: Path, text: PreTrainedConfig) -> None:
    """Check how far layers look back, and how many experts they choose from how many.

    Raises:
        BadFile: no layer can do that.
    """
    if text.is_heterogeneous:  # each layer has numbers of its own, and there are none of all
        return
    chosen = getattr(text, "num_experts_per_tok", None)
    counts = (getattr(text, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
    experts = next((count for count in counts if isinstance(count, int) and count), None)
    if isinstance(chosen, int) and experts is not None and not 0 <= chosen <= experts:
        raise BadFile(path, f"num_experts_per_tok: expected as many as there are experts or fewer, got {chosen!r}")
    if not getattr(text, "is_causal", True):
        raise BadFile(path, f"is_causal: expected true, as a token sees only those before it, got {text.is_causal!r}")
    if getattr(text, "use_bidirectional_attention", None) is True:
        raise BadFile(path, "use_bidirectional_attention: expected false, as no token sees those behind it, got True")
    kinds = getattr(text, "layer_types", None)
    if CHUNKED in (kinds or ()) and not isinstance(getattr(text, CHUNK, None), int):
        raise BadFile(path, f"layer_types: expected kinds of layers that a {text.model_type} has, got {CHUNKED!r}")
    if kinds is None or "sliding_attention" in kinds:
        window = getattr(text, "sliding_window", None)
        if kinds and not window and not getattr(text, "use_sliding_window", True):  # the config has dropped the length
            raise BadFile(path, "layer_types: expected no sliding_attention, as use_sliding_window is false")
        _check_window(path, window, may_be_none=kinds is None)


def _check_window(path: Path, window: Any, may_be_none: bool) -> None:
    """Check how many tokens a layer sees, itself among them. (With one alone transformers' cache would keep all.)"""
    if (type(window) is int and window > 1) or (window is None and may_be_none):
        return
    or_none = ", or null for none" if may_be_none else ", as some layers have a window"
    raise BadFile(path, f"sliding_window: expected a whole number of at least 2{or_none}, got {window!r}")


def check_rotation(path: Path, config: PreTrainedConfig) -> None:
    """Check a configuration's rotary embedding, under whatever name files have it, or that of each kind of layers.

    Raises:
        BadFile: there is no such embedding; the message names the setting.
    """
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    for part in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        for key in OF_ROTATIONS:
            if key in part and (expected := _expected(key, part[key], 0, None)):
                raise BadFile(path, f"{key}: expected {expected}, got {part[key]!r}")


def _expected(key: str, value: Any, elements: int, tensors: int | None) -> str | None:
    """Return what was expected under a key if its value is wrong, else None."""
    if key in SIZES and not isinstance(value, list):
        most = tensors if tensors is not None and key.endswith(("layers", "n_layer")) else elements
        most_is = f"{most} tensors" if most == tensors else f"{most} weights"
        return None if _is_whole(value, most) else f"a whole number of at least 1 and, with files of {most_is}, no more"
    if key in LENGTHS:
        return None if _is_whole(value, MOST_TOKENS) else f"a whole number of tokens from 1 to {MOST_TOKENS}"
    if re.match(r"(num|n)_.*experts$", key) and not isinstance(value, list):
        return None if _is_number(value) and value <= MOST_EXPERTS else f"at most {MOST_EXPERTS}"
    if EPSILON.search(key):
        return None if _is_number(value) and 0 <= value < 1 else "a number from 0 to 1"
    if key in POSITIVE:
        return None if _is_number(value) and 0 < value < 1e30 else "a number above 0"
    if ROTATION.match(key):
        return None if _is_number(value) else "a number"
    if key in ROTATIONS:
        return None if isinstance(value, list) and all(map(_is_number, value)) else "a list of numbers"
    if key in ACTIVATION_KEYS:
        return None if isinstance(value, str) and _is_activation(value) else "the name of an activation function"
    if key in ("dtype", "torch_dtype"):
        is_known = isinstance(value, str) and value.removeprefix("torch.") in DTYPES
        return None if is_known else f"one of {', '.join(DTYPES)}"
    if key == "sliding_window":
        return None if isinstance(value, int) else "a whole number of tokens, or null for none"
    if key == "window_size":  # GPT-Neo's name, for which it has no null
        return None if type(value) is int and value > 0 else "a whole number of tokens of at least 1"
    if key in ("rope_scaling", "rope_parameters"):
        return None if isinstance(value, dict) or not value else "an object, or null for none"
    if key == "layer_types":
        is_list = isinstance(value, list) and all(isinstance(kind, str) for kind in value)
        return None if is_list else "a list with the kind of each layer, such as full_attention"
    if key == "rope_type":
        known = {"default", *ROPE_INIT_FUNCTIONS}
        return None if isinstance(value, str) and value in known else f"one of {', '.join(sorted(known))}"
    return None


def _is_whole(value: Any, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


def _is_activation(name: str) -> bool:
    if name in ACTIVATIONS:
        return True
    # Not at the top, and not for models of the Llama type: torch's compiler comes with it, which takes a second.
    from transformers.activations import ACT2FN

    return name in ACT2FN


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
