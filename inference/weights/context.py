"""How many tokens a model can see at once, and how many it gets to see here."""

from typing import Any

from transformers import PreTrainedConfig

from interface.errors import LoadError

LARGEST_DEFAULT_CONTEXT = 4096
"""The cache has room for every slot's whole context, so a model's own 100,000 tokens are no default."""
STRETCHED = ("linear", "dynamic", "yarn")
"""Rotary schemes that reach beyond the length that a model was trained at by their factor.

Llama 3's and longrope's models name their whole reach in max_position_embeddings, and so do those of Gemma 3.
"""


def choose_context(wanted: int | None, config: PreTrainedConfig) -> int:
    """The context to serve: what was asked for, or else what the model was trained at, at most 4096.

    Raises:
        LoadError: the model does not reach that far.
    """
    text = config.get_text_config()
    trained, reach = getattr(text, "max_position_embeddings", None), reach_of(text)
    if wanted is None:
        return min(trained or LARGEST_DEFAULT_CONTEXT, LARGEST_DEFAULT_CONTEXT)
    if reach is not None and wanted > reach:
        raise LoadError(f"context {wanted}: the model was made for at most {reach} tokens")
    return wanted


def reach_of(text: PreTrainedConfig) -> int | None:
    """The most tokens that the configuration of a model of texts provides for; None if it does not say."""
    trained: int | None = getattr(text, "max_position_embeddings", None)
    rope: Any = getattr(text, "rope_parameters", None)
    if trained is None or not isinstance(rope, dict) or text.model_type.startswith("gemma3"):
        return trained
    factor = rope.get("factor")
    if rope.get("rope_type") not in STRETCHED or not isinstance(factor, int | float):
        return trained
    original = rope.get("original_max_position_embeddings") or trained
    return max(trained, int(original * factor))
