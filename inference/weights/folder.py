"""A checkpoint in a folder, as the hub has them: config.json, weights in safetensors, tokenizer.json.

Everything that can be checked in the files alone is checked before transformers reads them, so that an error names the
file, and so that an absurd number does not make transformers allocate that much memory.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from inference.weights.config_numbers import check_layers, check_numbers
from inference.weights.folder_tokenizer import MORE_TEMPLATES, TOKENIZER_FILES, checked_tokenizer
from inference.weights.found_instead import contents, quantization, refuse_adapter, refuse_no_files, weights_instead
from inference.weights.generation_settings import in_model_settings
from inference.weights.locate import WEIGHTS
from inference.weights.model_classes import auto_class, continues_texts
from inference.weights.pickled import read_pickle
from inference.weights.purpose import refuse_other_purposes
from inference.weights.safetensors_header import (
    BITS,
    BadFile,
    TensorInfo,
    read_header,
    read_json,
    refuse_pointer,
)
from inference.weights.source import Loaded, Origin
from inference.weights.usable_settings import usable, without_one
from inference.weights.weight_checks import is_leftover, reason
from interface.errors import LoadError

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
ORIGIN = Origin("config.json", "Is it the config.json of these weights, and are they complete?", "a GGUF file")
TEXT_FILES = ("config.json", "generation_config.json", *TOKENIZER_FILES)
"""The files that are read of a model, besides its weights."""


class TextFiles:
    """The small files of a checkpoint in a folder. (Another server may have the weights.)

    `name` is the user's name for it.
    """

    generation_names: Mapping[str, str] = MappingProxyType({})

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._path = path
        refuse_no_files(path, TEXT_FILES)
        if (templates := path / MORE_TEMPLATES).is_dir():
            refuse_no_files(templates, ("*.jinja",))
        if not (path / "config.json").is_file():
            refuse_adapter(path)
            raise LoadError(f"{name}: expected a folder with a config.json, found {contents(path)}")
        self.settings = read_json(path / "config.json")

    @property
    def config_path(self) -> Path:
        return self._path / "config.json"

    def generation_settings(self) -> tuple[Path, Mapping[str, Any]]:
        """The content of generation_config.json; if there is none, what config.json says about generating."""
        path = self._path / "generation_config.json"
        if not path.is_file():
            return self.config_path, in_model_settings(self.settings)
        return path, read_json(path)

    def config(self) -> PreTrainedConfig:
        kind = self.settings.get("model_type")
        if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
            # transformers goes by the folder's name then, or says what is wrong
            config: PreTrainedConfig = AutoConfig.from_pretrained(
                str(self._path), trust_remote_code=False, local_files_only=True
            )
            return config
        if kind == "mistral" and "layer_types" in self.settings:
            kind = "ministral"  # as AutoConfig does: Mistral's own code has one mask for all layers
        settings, _ = CONFIG_MAPPING[kind].get_config_dict(str(self._path), local_files_only=True)
        config = CONFIG_MAPPING[kind].from_dict(usable(settings | {"model_type": kind}))
        return config

    def tokenizer(self, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(self._path), config=config, trust_remote_code=False, local_files_only=True
        )
        return tokenizer


class Folder(TextFiles):
    """A whole checkpoint in a folder, all of whose files are checked."""

    origin = ORIGIN

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(path, name)
        self._refuse_unsupported()
        self._files = self._weight_files()
        self._tensors = self._headers()
        self._refuse_quantized_weights()

    def config(self) -> PreTrainedConfig:
        check_numbers(self.config_path, self.settings, self.elements, len(self._tensors))
        try:
            config = super().config()
            text = config.get_text_config()  # a model of several parts may have none, or two
        except Exception as error:
            raise BadFile(
                self.config_path,
                f"not a configuration that a {self.settings['model_type']} can have{self._blamed()}: {reason(error)}",
            ) from error
        check_layers(self.config_path, text)
        return config

    def _blamed(self) -> str:
        """The setting that transformers refuses: without it, the configuration is accepted."""
        for name, value, others in without_one(self.settings):
            with suppress(Exception):
                CONFIG_MAPPING[self.settings["model_type"]].from_dict(usable(others))
                return f", for its {name}, {str(value)[:60]!r}"
        return ""

    def tokenizer(self, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
        return checked_tokenizer(self._path, lambda: super(Folder, self).tokenizer(config))

    def dtype(self) -> torch.dtype:
        """The precision that most of the weights are in."""
        counts: Counter[torch.dtype] = Counter()
        for info in self._tensors.values():
            if info.dtype in FLOATS:
                counts[FLOATS[info.dtype]] += info.elements
        return counts.most_common(1)[0][0] if counts else torch.float32

    @property
    def elements(self) -> int:
        """How many numbers the files hold, at most."""
        return sum(info.elements for info in self._tensors.values())

    @property
    def shapes(self) -> Mapping[str, Sequence[int]]:
        return {name: info.shape for name, info in self._tensors.items()}

    def load(self, config: PreTrainedConfig, dtype: torch.dtype) -> Loaded:
        from transformers import GenerationConfig

        try:
            loaded: Any = auto_class(type(config)).from_pretrained(
                str(self._path),
                config=config,
                dtype=dtype,
                trust_remote_code=False,
                local_files_only=True,
                generation_config=GenerationConfig(),  # type: ignore[no-untyped-call]  # the folder's is read here
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except Exception as error:  # broken files make transformers raise almost anything
            raise BadFile(self._path, f"its weights cannot be loaded: {reason(error)}") from error
        return Loaded(loaded[0], loaded[1])

    def where(self, weight: str) -> Path:
        """The file that holds a weight, or the folder if none does under this name."""
        return self._tensors[weight].path if weight in self._tensors else self._path

    def called(self, weight: str) -> str:
        return weight

    # --- Checks of the files alone ------------------------------------------------------------------------------------

    def _refuse_unsupported(self) -> None:
        path, kind = self.config_path, self.settings.get("model_type")
        if not isinstance(kind, str):
            raise BadFile(path, f"expected a model_type, the name of an architecture, got {kind!r}")
        if kind not in CONFIG_MAPPING:
            code = (
                ". Code that comes with a model is not run (trust_remote_code)" if "auto_map" in self.settings else ""
            )
            version = transformers.__version__
            raise BadFile(path, f"model_type {kind!r} is not one that transformers {version} knows{code}")
        self._refuse_other_kinds(kind)
        refuse_other_purposes(self._path, self.settings)
        if found := quantization(self.settings):
            setting, method = found
            raise BadFile(
                path,
                f"{setting}: the weights are quantized by {method}, which is not supported; serve the model "
                f"that they were made from, or a GGUF file of it",
            )
        refuse_adapter(self._path)

    def _refuse_other_kinds(self, kind: str) -> None:
        try:
            is_of_texts = continues_texts(CONFIG_MAPPING[kind])
        except ImportError as error:
            raise BadFile(self.config_path, f"model_type {kind!r} cannot be used here: {reason(error)}") from error
        if not is_of_texts:
            raise BadFile(
                self.config_path,
                f"model_type {kind!r} is not a causal language model; expected one that continues a text",
            )

    def _weight_files(self) -> list[Path]:
        found = next((self._path / name for name in WEIGHTS if (self._path / name).is_file()), None)
        if found is None:
            raise BadFile(
                self._path, f"expected {WEIGHTS[0]}, {WEIGHTS[1]} or a .gguf file, found {weights_instead(self._path)}"
            )
        refuse_pointer(found)
        if found.suffix != ".json":
            return [found]
        index = read_json(found)
        places = index.get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise BadFile(found, "expected a weight_map, which says for each tensor what file it is in")
        if not isinstance(metadata := index.get("metadata"), dict):
            raise BadFile(found, f"metadata: expected an object, which may be empty, got {metadata!r}")
        for tensor, name in places.items():
            if Path(name).name != str(Path(name)) or not (self._path / name).is_file():
                raise BadFile(found, f"tensor {tensor} should be in {name!r}, and there is no such file in the folder")
        return sorted({self._path / name for name in places.values()})

    def _headers(self) -> dict[str, TensorInfo]:
        """The tensors of all files, without their numbers."""
        tensors: dict[str, TensorInfo] = {}
        for path in self._files:
            refuse_pointer(path)
            for name, info in (read_header if path.suffix == ".safetensors" else read_pickle)(path).items():
                if name in tensors:
                    raise BadFile(path, f"tensor {name} is in {tensors[name].path.name} too")
                tensors[name] = info
        if not tensors:
            raise BadFile(self._path, "its files hold no tensors; expected the weights of a model")
        return tensors

    def _refuse_quantized_weights(self) -> None:
        for name, info in self._tensors.items():
            if _is_quantized(name, info):
                raise BadFile(
                    info.path,
                    f"tensor {name} is of type {info.dtype}: quantized, but config.json has no quantization_config. "
                    f"Expected float32, bfloat16, float16 or float64",
                )


def _is_quantized(name: str, info: TensorInfo) -> bool:
    """Whether a tensor's numbers mean nothing without a scale. Masks and other tables have types like theirs."""
    if info.dtype in FLOATS:
        return False
    is_small = BITS.get(info.dtype, 64) <= 8 and info.dtype != "BOOL"
    return name.endswith((".weight", ".qweight")) or (is_small and not is_leftover(name))
