"""Refuses rotary embeddings that a cache of keys cannot follow."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig

from interface.errors import UnsupportedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_rotations(model: "PreTrainedModel", context: int) -> None:
    """Refuse rotary embeddings whose angles change for a whole text when it grows beyond some length.

    Then the keys in the cache have the wrong angles. transformers computes such a text again from its start.

    Raises:
        UnsupportedModel: the context goes beyond that length.
    """
    for rotation in _rotations(model.config.get_text_config()):
        kind = rotation.get("rope_type", "default")
        if kind == "longrope":
            limit = rotation.get("original_max_position_embeddings")
        elif kind == "dynamic":
            limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        else:
            continue
        if limit is not None and context > limit:
            raise UnsupportedModel(
                f"{type(model).__name__} has rotary embeddings of type {kind}: when a text grows beyond {limit} "
                f"tokens, all of it gets other angles, also what is in the cache. Up to there it works: set "
                f"ENGINE_CONTEXT={limit}."
            )


def _rotations(config: PreTrainedConfig) -> Iterator[dict[str, Any]]:
    """The rotary embeddings' settings: one set for all layers, or one for each kind of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if "rope_type" in parameters:
        yield parameters
    yield from (settings for settings in parameters.values() if isinstance(settings, dict))
