"""What a rule says by which the GGUF file of a model is written, see `gguf_families`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel


def no_more(config: PreTrainedConfig) -> dict[str, Any]:
    return {}


def not_split(name: str, weight: Tensor) -> dict[str, Tensor]:
    return {}


def nothing_extra(model: PreTrainedModel) -> dict[str, Tensor]:
    return {}


@dataclass(frozen=True, slots=True)
class Written:
    """What is special about the files of one of transformers' model types."""

    architecture: str
    names: Mapping[str, str] = field(default_factory=dict)
    """Names of weights that are others than in most architectures: transformers' and llama.cpp's."""
    entries: Callable[[PreTrainedConfig], dict[str, Any]] = no_more
    """Metadata, without the architecture's prefix."""
    is_paired: bool = False
    norm_offset: float = 0.0
    split: Callable[[str, Tensor], dict[str, Tensor]] = not_split
    """What a layer's weight becomes that does not stay one tensor, by llama.cpp's names; nothing for all others."""
    numbers: Mapping[str, str] = field(default_factory=dict)
    """Weights of each layer that become a list of the metadata: transformers' names, and whole keys."""
    extra: Callable[[PreTrainedModel], dict[str, Tensor]] = nothing_extra
    """Tensors outside the layers that are no weight of the model, or several; weights that `names` has as ""."""


def rotated_in_part(config: PreTrainedConfig) -> dict[str, Any]:
    """The width that is rotated of a head."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return {"rope.dimension_count": int(head_dim * config.rope_parameters["partial_rotary_factor"])}


def windows(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "attention.sliding_window": config.sliding_window,
        "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in config.layer_types],
    }


def yarn(config: PreTrainedConfig) -> dict[str, Any]:
    rope = config.rope_parameters
    return {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": rope["factor"],
        "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
        "rope.scaling.yarn_beta_fast": rope["beta_fast"],
        "rope.scaling.yarn_beta_slow": rope["beta_slow"],
    }


def thetas(config: PreTrainedConfig) -> dict[str, Any]:
    rope = config.rope_parameters
    return {
        "rope.freq_base": rope["full_attention"]["rope_theta"],
        "rope.freq_base_swa": rope["sliding_attention"]["rope_theta"],
    }
