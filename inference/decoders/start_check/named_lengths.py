"""Finds the lengths that a config names, at which a model may begin to compute differently."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedConfig

LENGTH_NAMES = re.compile(
    r"window(?!_layers|.*pattern)|chunk|block_size|original_max_position|floor|index_topk$|local_attention|local_blocks"
)
"""The settings of configs with a length at which something changes."""
PRODUCTS = (("index_topk_blocks", "index_block_size"),)
"""Lengths that are the product of two settings."""


def named_lengths(config: PreTrainedConfig) -> set[tuple[str, int]]:
    """The lengths that a config names, at which a model may begin to compute differently, each with its name.

    Parts of a model may have lengths of the same name, and so may its layers, where a setting is a list.
    """
    text_config = config.get_text_config()
    lengths = set(_lengths_in(text_config.to_dict()))
    for factors in PRODUCTS:
        values: list[Any] = [getattr(text_config, name, None) for name in factors]
        if all(isinstance(value, int) for value in values):
            lengths.add((" x ".join(factors), math.prod(values)))
    return lengths


def _lengths_in(settings: Mapping[Any, Any]) -> Iterator[tuple[str, int]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _lengths_in(value)
        elif LENGTH_NAMES.search(str(name)):
            for length in value if isinstance(value, list) else [value]:
                if type(length) is int and length > 1:
                    yield str(name), length
