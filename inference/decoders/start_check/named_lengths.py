"""Finds the lengths that a config names, at which a model may begin to compute otherwise."""

import re
from typing import Any

import torch
from transformers import PreTrainedConfig

LENGTH_NAMES = re.compile(
    r"window(?!_layers|.*pattern)|chunk|block_size|original_max_position|floor|index_topk$|local_attention|local_blocks"
)
"""What configs call the lengths at which something changes."""
PRODUCTS = (("index_topk_blocks", "index_block_size"),)
"""Lengths that are the product of two settings."""


def named_lengths(config: PreTrainedConfig) -> dict[str, int]:
    """The lengths that a config names, at which a model may begin to compute otherwise."""
    lengths: dict[str, int] = {}

    def collect(settings: dict[str, Any]) -> None:
        for name, value in settings.items():
            if isinstance(value, dict):
                collect({str(inner): setting for inner, setting in value.items()})
            elif type(value) is int and value > 1 and LENGTH_NAMES.search(name):
                lengths[name] = value

    text_config = config.get_text_config()
    collect(text_config.to_dict())
    for factors in PRODUCTS:
        values = [getattr(text_config, name, None) for name in factors]
        if all(isinstance(value, int) for value in values):
            lengths[" x ".join(factors)] = int(torch.tensor(values).prod())
    return lengths
