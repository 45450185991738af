"""Loads the text side of a model alone: its tokenizer and its settings, but no weights.

For engines that are elsewhere, which may serve models that ours cannot: what is asked of the files is only what the
text side needs to know.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from config import Config
from inference.text.text_side import TextSide
from inference.weights.context import choose_context
from inference.weights.generation_settings import find_eos_ids, find_sampling_defaults
from inference.weights.gguf import is_gguf
from inference.weights.gguf_source import GGUFSource
from inference.weights.hub import bring
from inference.weights.known import reason
from inference.weights.quiet import quiet
from inference.weights.safetensors_header import read_json
from interface.errors import LoadError


class Files:
    """The small files of a checkpoint in a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.config_path = path / "config.json"
        self.settings: Mapping[str, Any] = read_json(self.config_path)

    def generation_settings(self) -> tuple[Path, Mapping[str, Any]]:
        path = self._path / "generation_config.json"
        return path, read_json(path) if path.is_file() else {}

    def config(self) -> PreTrainedConfig:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            str(self._path), trust_remote_code=False, local_files_only=True
        )
        return config

    def tokenizer(self, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(self._path), config=config, trust_remote_code=False, local_files_only=True
        )
        return tokenizer


def load_text_side(config: Config) -> TextSide:
    """Load the text side of the model that `config` names: a folder, a GGUF file or a hub name.

    Raises:
        LoadError: there is no such model, or its files are not what they should be.
    """
    files = _files(config.model)
    with quiet():
        try:
            model_config = files.config()
            tokenizer = files.tokenizer(model_config)
        except LoadError:
            raise
        except Exception as error:
            raise LoadError(f"{config.model}: its tokenizer cannot be loaded: {reason(error)}") from error
    path, generation = files.generation_settings()
    sources = [(files.config_path, files.settings), (path, generation)]
    text_config = model_config.get_text_config()
    return TextSide(
        tokenizer,
        choose_context(config.context, model_config),
        text_config.vocab_size,
        find_eos_ids(sources, tokenizer, getattr(text_config, "eos_token_id", None)),
        find_sampling_defaults(path, generation) if config.generation_config == "auto" else {},
    )


def _files(name: str) -> Files | GGUFSource:
    path = Path(name)
    if not path.exists():
        if path.is_absolute() or name.startswith("."):
            raise LoadError(f"{name}: expected a folder with a config.json or a GGUF file, found none")
        path = bring(name, weights=False)
    if path.is_file() and is_gguf(path):
        return GGUFSource(path, name)
    if not (path / "config.json").is_file():
        raise LoadError(f"{name}: expected a folder with a config.json or a GGUF file, found neither")
    return Files(path)
