"""The interface of a checkpoint's files, which a folder and a GGUF file implement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Origin:
    """How errors about weights speak of the kind of checkpoint that they are in."""

    settings: str
    """What says which weights there are."""
    advice: str
    instead: str
    """Another form of the same model, where this one has been quantized."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model, and what transformers' loader says about missing, mismatched and unexpected weights."""

    model: "PreTrainedModel"
    info: Mapping[str, Any]


class Source(Protocol):
    """The files of one checkpoint. All methods raise LoadError, with a file's name, for what is wrong with it."""

    name: str
    origin: Origin
    generation_names: Mapping[str, str]
    """What the files call settings for generation, where that is not what generation_config.json calls them."""

    @property
    def config_path(self) -> Path: ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """The content of the file at `config_path`."""

    def generation_settings(self) -> tuple[Path, Mapping[str, Any]]:
        """The settings for generation, and the file that has them."""

    def config(self) -> PreTrainedConfig: ...

    def tokenizer(self, config: PreTrainedConfig) -> PreTrainedTokenizerBase: ...

    def dtype(self) -> torch.dtype:
        """The precision of the weights in the files."""

    @property
    def elements(self) -> int:
        """How many numbers the files hold, at most."""

    @property
    def shapes(self) -> Mapping[str, Sequence[int]]:
        """The shapes of the tensors in the files, by the names that they have there."""

    def load(self, config: PreTrainedConfig, dtype: torch.dtype) -> Loaded: ...

    def where(self, weight: str) -> Path:
        """The file to name when a weight is unusable."""

    def called(self, weight: str) -> str:
        """What the files call a weight of transformers' model."""
