"""Takes out of a model what it sees and hears with: no text needs that, and it takes memory."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LeftOut(nn.Module):
    """Stands where a model had an encoder of images, videos or sounds, and is on the same device."""

    def __init__(self, config: PreTrainedConfig, device: torch.device) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("place", torch.empty(0, device=device), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where models ask it of their encoder, before they know whether there is anything to see or hear."""
        place: Any = self.place
        device: torch.device = place.device
        return device

    def forward(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("what this model sees or hears with was taken out; expected texts only")


def take_out(model: "PreTrainedModel") -> None:
    """Leave a model of several parts with those that texts go through, and free the weights of the others.

    The others are models of their own within it, built from other parts of its configuration than the text's.
    """
    others = _configs_of_other_parts(model.config)
    parts: list[tuple[nn.Module, str, Any]] = [
        (parent, name, part)
        for parent in list(model.modules())
        for name, part in parent.named_children()
        if type(getattr(part, "config", None)) in others
    ]
    for parent, name, part in parts:
        setattr(parent, name, LeftOut(part.config, model.device))


def _configs_of_other_parts(config: PreTrainedConfig) -> set[type[PreTrainedConfig]]:
    """The types of a configuration's parts that are not the text's; none if the model has one part only."""
    of_text = type(config.get_text_config())
    parts = (getattr(config, name, None) for name in config.sub_configs)
    return {type(part) for part in parts if isinstance(part, PreTrainedConfig)} - {of_text, type(config)}
