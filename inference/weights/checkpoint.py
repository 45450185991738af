"""Finds and loads a checkpoint: a folder, a GGUF file or a hub name, in the precision and onto the device asked for.

Each kind of checkpoint is a `Source`; everything else is the same for all.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from config import EngineSettings
from inference.scheduling.bans import NO_BANS, ModelBans
from inference.text.templates import template_error
from inference.text.text_side import GenerationSettings
from inference.weights.context import CacheBudget, choose_context
from inference.weights.generation_settings import (
    check_cache,
    find_bans,
    find_biases,
    find_eos_ids,
    find_not_applied,
    find_sampling_defaults,
    find_stop_strings,
    find_suppressed,
)
from inference.weights.gguf.file import GGUFFile
from inference.weights.gguf.heads import stays_as_it_is
from inference.weights.gguf.llama import llama_from_gguf
from inference.weights.gguf.source import GGUFSource
from inference.weights.gguf.weights import zero_matrices
from inference.weights.llama import Llama, NotLlama
from inference.weights.locate import locate
from inference.weights.memory import gibibytes, left_to_the_process
from inference.weights.memory_ahead import AHEAD
from inference.weights.model_classes import auto_class
from inference.weights.other_senses import take_out
from inference.weights.quiet import quiet
from inference.weights.source import Source
from inference.weights.variation import is_of_llama_type
from inference.weights.weight_checks import (
    is_layer_of_mtp,
    is_leftover,
    is_zero,
    reason,
    refuse_larger,
    refuse_missing,
    refuse_nan,
    warn_of_zeros,
)
from interface.errors import LoadError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("engine")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model with what generation needs to know of it."""

    model: "PreTrainedModel | Llama"
    tokenizer: PreTrainedTokenizerBase
    context: int
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    bans: ModelBans = NO_BANS
    """What is not chosen at some places."""


def load_checkpoint(config: EngineSettings) -> Checkpoint:
    """Load what `config` names.

    Raises:
        LoadError: there is no such model, device or context, or the checkpoint is broken.
    """
    device = _device(config.device)
    try:
        source = find_source(config.model)
        with quiet():
            return _load(source, config, device)
    except OSError as error:
        raise LoadError(
            f"{error.filename or config.model}: cannot be read: {error.strerror or reason(error)}"
        ) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise LoadError(f"{config.model}: its weights do not fit the memory of {device}") from error


def find_source(name: str) -> Source:
    """Find the checkpoint of a name: a GGUF file, a folder, or a model on the hub.

    Raises:
        LoadError: there is no checkpoint of this name.
    """
    path = locate(name)
    if path.is_file():
        return GGUFSource(path, name)
    from inference.weights.folder import Folder  # not at the top: with it come all of transformers' models

    return Folder(path, name)


def _load(source: Source, config: EngineSettings, device: torch.device) -> Checkpoint:
    blocks = _blocks_of(source, config, device)
    plain = None if blocks is None else blocks.plain_config()
    model_config = plain or _config_of(source)
    tokenizer = _tokenizer(source, model_config)
    found = source.generation_settings()
    applies = config.generation_config == "auto"
    eos_ids = find_eos_ids([(source.config_path, source.settings), found], tokenizer, model_config)
    generation = _generation_settings(source, found, eos_ids) if applies else GenerationSettings(eos_ids)
    bans = find_bans(*found) if applies else NO_BANS
    dtype = _dtype(config.dtype, source, model_config, device)
    weight_bytes = _weight_bytes(source, blocks, dtype)
    is_for_cpp = _is_for_cpp(blocks, model_config, dtype, device, config)
    state_bytes = 0 if is_for_cpp else _bytes_of_states(model_config, dtype)
    budget = CacheBudget.of(
        model_config, dtype, device, config.max_streams, weight_bytes, forgets=not is_for_cpp, state_bytes=state_bytes
    )
    context = choose_context(config.context, model_config, budget)
    model: PreTrainedModel | Llama | None = None
    if blocks is not None:
        model = _quantized_llama(blocks.file, model_config, dtype, context)
    if model is None:
        _check_room(config.model, source.elements * dtype.itemsize)
        model = _transformers_model(source, model_config if plain is None else _config_of(source), dtype)
        nn.Module.to(model, device)
    return Checkpoint(model, tokenizer, context, generation, bans)


def _blocks_of(source: Source, config: EngineSettings, device: torch.device) -> GGUFSource | None:
    """A GGUF file whose blocks the decoder in C++ may compute from as they are."""
    return source if isinstance(source, GGUFSource) and config.is_compiled and device.type == "cpu" else None


def _is_for_cpp(
    blocks: GGUFSource | None,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    device: torch.device,
    settings: EngineSettings,
) -> bool:
    """Whether the decoder in C++ is likely to take the model. It keeps the whole of each text, in all layers."""
    if blocks is not None and stays_as_it_is(blocks.file):
        return True
    is_asked_for = settings.is_compiled and device.type == "cpu"
    return is_asked_for and is_of_llama_type(config.get_text_config(), dtype)


def _bytes_of_states(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    from inference.weights.state_sizes import bytes_of_states  # not at the top: with it come transformers' caches

    return bytes_of_states(config, dtype)


def _weight_bytes(source: Source, blocks: GGUFSource | None, dtype: torch.dtype) -> int:
    """Bytes that the weights are going to take. Those of a GGUF file stay as they are for the decoder in C++."""
    if blocks is not None and stays_as_it_is(blocks.file):
        return blocks.file.bytes_held - AHEAD.bytes  # what has been fetched for them is no longer free
    return source.elements * dtype.itemsize


def _check_room(name: str, weight_bytes: int) -> None:
    """Check that the limit of this process leaves room for the weights: libraries may crash when they reach it.

    Raises:
        LoadError: it does not.
    """
    left = left_to_the_process()
    if left is not None and left < weight_bytes:
        raise LoadError(
            f"{name}: its weights take {gibibytes(weight_bytes)}, and the limit of this process (ulimit -v) leaves "
            f"{gibibytes(left)}; raise it"
        )


def _tokenizer(source: Source, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    tokenizer = source.tokenizer(config)
    if (error := template_error(tokenizer)) is not None:
        log.warning("%s: the chat template cannot be read, so no messages can be taken: %s", source.name, error)
    return tokenizer


def _generation_settings(
    source: Source, found: tuple[Path, Mapping[str, Any]], eos_ids: Collection[int]
) -> GenerationSettings:
    """What the files say about generating. `found` are the settings for that, and the file that they are from."""
    check_cache(*found)
    return GenerationSettings(
        eos_ids,
        _sampling_defaults(*found, source.generation_names),
        find_suppressed(*found, eos_ids, source.generation_names),
        find_stop_strings(*found),
        find_biases(*found),
    )


def _sampling_defaults(path: Path, generation: Mapping[str, Any], names: Mapping[str, str]) -> Mapping[str, float]:
    """The model's own defaults for sampling parameters; logs them, and what is not applied."""
    if ignored := find_not_applied(generation):
        log.warning("%s: not applied here, as if not set: %s", path, ", ".join(ignored))
    defaults = find_sampling_defaults(path, generation, names)
    if defaults:
        log.info("Sampling defaults of the model: %s", ", ".join(f"{key} {value:g}" for key, value in defaults.items()))
    return defaults


def _quantized_llama(file: GGUFFile, config: PreTrainedConfig, dtype: torch.dtype, context: int) -> Llama | None:
    """Read a GGUF file with its blocks as they are, for the decoder in C++; None if that does not support it."""
    try:
        llama = llama_from_gguf(file, config, dtype, context)
    except NotLlama as reason:
        log.info("The weights are dequantized: %s", reason)
        return None
    warn_of_zeros(str(file.path), zero_matrices(file))
    return llama


def _config_of(source: Source) -> PreTrainedConfig:
    """Return the configuration of a model, after checking that the model is no larger than its files."""
    config = source.config()
    refuse_larger(source, config, _built)
    return config


def _transformers_model(source: Source, config: PreTrainedConfig, dtype: torch.dtype) -> "PreTrainedModel":
    loaded = source.load(config, dtype)
    refuse_missing(source, loaded, lambda name: is_leftover(name) or is_layer_of_mtp(name, config))
    # The parts for images and sound may have infinite bounds; texts do not use them.
    weights = {name: weight for name, weight in loaded.model.state_dict().items() if not is_leftover(name)}
    refuse_nan(source, weights)
    warn_of_zeros(source.name, [source.called(name) for name, weight in weights.items() if is_zero(weight)])
    take_out(loaded.model)
    return loaded.model


def _built(config: PreTrainedConfig) -> "PreTrainedModel":
    model: PreTrainedModel = auto_class(type(config)).from_config(config)  # type: ignore[no-untyped-call]
    return model


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise LoadError(f"device {name}: this machine offers torch {count} CUDA devices; choose another, cpu or auto")
    return device


def _dtype(name: str, source: Source, config: PreTrainedConfig, device: torch.device) -> torch.dtype:
    """The precision to compute in: "auto" is what config.json names, or else what the weights are in."""
    if name != "auto":
        return DTYPES[name]
    of_weights = config.dtype if isinstance(config.dtype, torch.dtype) else source.dtype()
    if of_weights == torch.float64:
        log.warning("The weights are float64; they are computed with in float32")
    if of_weights == torch.float16 and device.type == "cpu":
        return torch.float32  # CPUs compute in half precision slowly, if at all
    return of_weights if of_weights in DTYPES.values() else torch.float32
