"""Finds and loads a checkpoint: a folder or a hub name, onto the device and in the precision that were asked for."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from config import Config
from interface.request import LoadError

LARGEST_DEFAULT_CONTEXT = 4096
"""The cache has room for every slot's whole context, so a model's own 100,000 tokens are no default."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model with what generation needs to know of it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    context: int
    eos_ids: Collection[int]


def load_checkpoint(config: Config) -> Checkpoint:
    """Load what `config` names.

    Raises:
        LoadError: there is no such model, device or context, or the checkpoint is broken.
    """
    device = _device(config.device)
    folder = Path(config.model)
    if (folder.is_absolute() or config.model.startswith(".")) and not (folder / "config.json").is_file():
        raise LoadError(f"{config.model}: expected a folder with a config.json, found none")
    try:
        model_config = AutoConfig.from_pretrained(config.model)
        dtype = _dtype(config.dtype, model_config.dtype, device)
        tokenizer = AutoTokenizer.from_pretrained(config.model)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            config.model, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except Exception as error:  # there is no end of ways in which files can be broken
        taken_for = "" if folder.is_dir() else " (no folder here, so taken for a hub name)"
        reason = next(iter(str(error).splitlines()), "")  # some go on to list every model there is
        raise LoadError(
            f"{config.model}{taken_for}: cannot be loaded as a causal language model: {type(error).__name__}: {reason}"
        ) from error
    model: PreTrainedModel = loaded[0]
    _check_weights(config.model, loaded[1])
    if not tokenizer(["Hello"], add_special_tokens=False)["input_ids"][0]:
        raise LoadError(f"{config.model}: its tokenizer has no tokens; expected a tokenizer.json beside config.json")
    nn.Module.to(model, device)
    return Checkpoint(
        model=model,
        tokenizer=tokenizer,
        context=_context(config.context, getattr(model_config.get_text_config(), "max_position_embeddings", None)),
        eos_ids=eos_ids(model, tokenizer),
    )


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Collection[int]:
    """The tokens that end a text: as the generation config says, else as the tokenizer does."""
    generation_config = model.generation_config
    ids = None if generation_config is None else generation_config.eos_token_id
    if ids is None:
        ids = tokenizer.eos_token_id
    if ids is None:
        return frozenset()
    return frozenset(ids if isinstance(ids, list) else [ids])


def _check_weights(model: str, loading_info: Mapping[str, Any]) -> None:
    """transformers makes up, at random, what a checkpoint lacks; nobody wants to be served that."""
    unfit = sorted({*loading_info["missing_keys"], *(key for key, *_ in loading_info["mismatched_keys"])})
    if unfit:
        raise LoadError(
            f"{model}: {len(unfit)} weights are missing or of another shape than config.json says, {unfit[0]} for one. "
            f"Is it the config.json of these weights, and are they complete?"
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise LoadError(f"device {name}: this machine offers torch {count} CUDA devices; choose another, cpu or auto")
    return device


def _dtype(name: str, of_checkpoint: torch.dtype | None, device: torch.device) -> torch.dtype:
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if of_checkpoint is None or (of_checkpoint == torch.float16 and device.type == "cpu"):
        return torch.float32  # CPUs compute in half precision slowly, if at all
    return of_checkpoint


def _context(wanted: int | None, of_model: int | None) -> int:
    if wanted is None:
        return min(of_model or LARGEST_DEFAULT_CONTEXT, LARGEST_DEFAULT_CONTEXT)
    if of_model is not None and wanted > of_model:
        raise LoadError(f"context {wanted}: the model was made for at most {of_model} tokens")
    return wanted
