"""Shortens a model to its first layers, as many as it takes to have one of each kind."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from inference.weights.model_classes import decoder_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class FewLayers:
    """The first layers of a model, as many as it takes to have one of each kind; `share` of them all."""

    count: int
    share: float


def layers_of_each_kind(model: "PreTrainedModel") -> FewLayers | None:
    """None if it cannot be told which modules are the layers."""
    layers = _layer_list(model)
    if layers is None:
        return None
    declared = getattr(model.config.get_text_config(), "layer_types", None) or [None] * len(layers[2])
    kinds = [(kind, _kind(layer)) for kind, layer in zip(declared, layers[2], strict=False)]
    count = max(kinds.index(kind) for kind in kinds) + 1
    return FewLayers(count, count / len(kinds))


@contextmanager
def shortened(model: "PreTrainedModel", count: int | None) -> Iterator[None]:
    """Within this, a model has its first `count` layers only; None: all of them."""
    found = None if count is None else _layer_list(model)
    if found is None:
        yield
        return
    parent, name, layers = found
    setattr(parent, name, nn.ModuleList(list(layers)[:count]))
    try:
        yield
    finally:
        setattr(parent, name, layers)


def _layer_list(model: "PreTrainedModel") -> tuple[nn.Module, str, nn.ModuleList] | None:
    """Where a model keeps its layers, if there is one list of as many modules as the config says.

    Only among the modules that continue texts: an encoder of images or sounds may have as many layers.
    """
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    lists = [
        (parent, name, child)
        for parent in decoder_of(model).modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == count
    ]
    return lists[0] if count and len(lists) == 1 else None


def _kind(layer: nn.Module) -> tuple[Any, ...]:
    """What a layer is made of and set to, without its number: layers of one kind compute alike."""
    return tuple((name, type(module).__name__, _settings(module)) for name, module in layer.named_modules())


def _settings(module: nn.Module) -> tuple[Any, ...]:
    plain = {name: value for name, value in vars(module).items() if isinstance(value, int | float | str | None)}
    return tuple(sorted((name, value) for name, value in plain.items() if name not in ("layer_idx", "layer_id")))
