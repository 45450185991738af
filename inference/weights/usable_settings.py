"""Rewrites settings of a config.json that transformers refuses although their meaning is clear.

Tokens may be given as texts, or as several; what this server reads of them it reads from the file itself. It pads
nothing, and chooses by itself how a model is computed. A precision may be "auto", that of the weights.
"""

from collections.abc import Iterator, Mapping
from typing import Any

NOT_TAKEN = ("attn_implementation", "_attn_implementation", "return_dict", "use_cache")
"""Settings about computing."""
PART = "_config"
"""The end of the names of a model's parts: the settings of its decoder are in `text_config`, for example."""


def usable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a model and of its parts, in which each special token is an id, several ends, or None."""
    vocabulary = settings.get("vocab_size")
    return {name: _usable_value(name, value, vocabulary) for name, value in settings.items() if name not in NOT_TAKEN}


def without_one(settings: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Each setting of a model and of its parts, which are `within` it: name, value, and the settings but for it."""
    for name, value in settings.items():
        if name.endswith(PART) and isinstance(value, Mapping):
            for inner, own, rest in without_one(value, f"{within}{name}."):
                yield inner, own, {**settings, name: rest}
        yield f"{within}{name}", value, {other: kept for other, kept in settings.items() if other != name}


def _usable_value(name: str, value: Any, vocabulary: Any) -> Any:
    if name.endswith(PART) and isinstance(value, Mapping):
        return usable(value)
    if name == "eos_token_id":
        return value if _is_id(value) or (isinstance(value, list) and all(map(_is_id, value))) else None
    if name == "bos_token_id":
        return value if _is_id(value) else None
    if name == "pad_token_id":  # it makes a row of the embedding special, which must be there
        return value if _is_id(value) and not (isinstance(vocabulary, int) and value >= vocabulary) else None
    if name in ("dtype", "torch_dtype") and isinstance(value, str):
        return None if value == "auto" else value.removeprefix("torch.")
    return value


def _is_id(value: Any) -> bool:
    return type(value) is int
