"""Says by their names what weights files lack, and which are of another shape than their model's."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from inference.weights.found_instead import listed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD = "lm_head.weight"
IF_TIED = "If the head of this model is its embedding, config.json should say so with tie_word_embeddings: true. "
Unfit = tuple[str, Sequence[int], Sequence[int]]
"""A weight's name, its shape in the files, and that of the model."""


def missing_weights(names: Collection[str]) -> str:
    """A sentence about weights that are not in the files, by the first few of their names."""
    if len(names) == 1:
        return f"{next(iter(names))} is missing"
    return f"{len(names)} weights are missing: {listed(sorted(names))}"


def unfit_weights(weights: Sequence[Unfit], settings: str) -> str:
    """A sentence about weights of another shape than `settings`, the name of a file, says."""
    name, came, wanted = min(weights)
    shapes = f"{tuple(came)}; expected {tuple(wanted)}"
    if len(weights) == 1:
        return f"{name} is of another shape than {settings} says: {shapes}"
    return f"{len(weights)} weights are of another shape than {settings} says: {name}, for one, is {shapes}"


def renamed(model: "PreTrainedModel", names: Collection[str]) -> set[str]:
    """The weights of a model that transformers fills from tensors of these names."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    changes = get_model_conversion_mapping(model)
    renamings = [change for change in changes if isinstance(change, WeightRenaming)]
    converters = [change for change in changes if isinstance(change, WeightConverter)]
    prefix, weights = model.base_model_prefix, model.state_dict()
    return set(names) | {rename_source_key(name, renamings, converters, prefix, weights)[0] for name in names}
