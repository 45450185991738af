"""A checkpoint in a GGUF file: a `Source` (`inference.weights.source`), as a folder is one."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from gguf import GGMLQuantizationType
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from inference.weights.gguf.ahead import OPENED
from inference.weights.gguf.architectures import keys_read
from inference.weights.gguf.configuration import model_config, plain_config
from inference.weights.gguf.file import BadGGUF, GGUFFile
from inference.weights.gguf.fused import separated
from inference.weights.gguf.keys import unknown_keys
from inference.weights.gguf.numbers import PLAIN
from inference.weights.gguf.tokenizer import ends_by_name, make_tokenizer
from inference.weights.gguf.weights import absent_biases, lazily, model_weights, name_in_file
from inference.weights.source import Loaded, Origin
from inference.weights.weight_checks import reason
from interface.errors import LoadError

log = logging.getLogger("engine")

Config = TypeVar("Config")

GENERATION: Mapping[str, str] = {
    "temperature": "general.sampling.temp",
    "top_p": "general.sampling.top_p",
    "top_k": "general.sampling.top_k",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
    "penalty_last_n": "general.sampling.penalty_last_n",
    "xtc_probability": "general.sampling.xtc_probability",
    "mirostat": "general.sampling.mirostat",
    "sequence": "general.sampling.sequence",
    "suppress_tokens": "tokenizer.ggml.suppress_tokens",
}
"""The settings of generation_config.json that files have, by keys of their own."""
ORIGIN = Origin(
    "its metadata",
    "Is the file complete, and of this architecture? Convert the model again, or serve its folder.",
    "another GGUF file",
)
ENDS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")


class GGUFSource:
    """A model in a GGUF file, or in all the parts of a split one. `name` is what the user called it."""

    origin = ORIGIN
    generation_names = GENERATION

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self.file = separated(OPENED.take(path))
        if unknown := unknown_keys(self.file, keys_read(self.file)):
            log.warning("%s: not known here, and without effect: %s", self.file.path, ", ".join(unknown))

    @property
    def config_path(self) -> Path:
        return self.file.path

    @property
    def settings(self) -> Mapping[str, Any]:
        named = [token_id for name in ENDS if (token_id := self.file.token_id(name)) is not None]
        return {"eos_token_id": [*named, *ends_by_name(self.file)]}

    def generation_settings(self) -> tuple[Path, Mapping[str, Any]]:
        found = {name: self.file.metadata.get(key) for name, key in GENERATION.items()}
        settings = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in found.items()}
        if settings["repetition_penalty"] in (None, 1):
            del settings["penalty_last_n"]
        return self.file.path, settings

    def config(self) -> PreTrainedConfig:
        return self._made(model_config)

    def plain_config(self) -> PreTrainedConfig | None:
        """The configuration for a decoder of our own; None if the model is not of the Llama type."""
        return self._made(plain_config)

    def _made(self, make: Callable[[GGUFFile], Config]) -> Config:
        try:
            return make(self.file)
        except LoadError:
            raise
        except Exception as error:  # sizes that do not fit each other
            kind = self.file.architecture
            raise BadGGUF(self.file.path, f"not a configuration that a {kind} can have: {reason(error)}") from error

    def tokenizer(self, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
        return make_tokenizer(self.file)

    def dtype(self) -> torch.dtype:
        """The precision of its matrices; bfloat16 for what is quantized."""
        kinds = [blocks.kind for blocks in self.file.tensors.values() if len(blocks.shape) > 1]
        kind = max(set(kinds), key=kinds.count, default=GGMLQuantizationType.F32)
        return PLAIN.get(kind.name, torch.bfloat16)

    @property
    def elements(self) -> int:
        return self.file.elements

    @property
    def shapes(self) -> Mapping[str, Sequence[int]]:
        return {name: blocks.shape for name, blocks in self.file.tensors.items()}

    def load(self, config: PreTrainedConfig, dtype: torch.dtype) -> Loaded:
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

        weights = model_weights(self.file, config) | absent_biases(self.file, config)
        try:
            model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
            loaded: Any = model_class.from_pretrained(
                None,
                config=config,
                state_dict=dict(lazily(weights, dtype)),
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except Exception as error:
            raise BadGGUF(self.file.path, f"its weights cannot be loaded: {reason(error)}") from error
        return Loaded(loaded[0], loaded[1])

    def where(self, weight: str) -> Path:
        return self.file.path

    def called(self, weight: str) -> str:
        return name_in_file(self.file, weight)
