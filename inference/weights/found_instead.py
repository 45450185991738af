"""Says what a folder has where something else was expected in it, and what can be done about that."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from inference.weights.safetensors_header import BadFile

SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}\.safetensors")
MOST_NAMES = 4
ADAPTER = "adapter_config.json"
IN_SAFETENSORS = ".safetensors"
MISTRALS = "consolidated"
"""How the names of files begin that Mistral's own programs read."""
UNFINISHED = ".cache/huggingface/download/*"
"""Where Hugging Face's programs keep files in a folder until they are whole."""
OTHER_FORMATS: Mapping[str, str] = {
    ".tflite": "a model for LiteRT",
    ".xml": "a model for OpenVINO",
    ".onnx": "a model for ONNX Runtime",
    ".npz": "weights for MLX",
    ".ot": "weights for Rust",
    ".msgpack": "weights for Flax",
    ".h5": "weights for TensorFlow",
    **dict.fromkeys((".part", ".partial", ".incomplete", ".crdownload", ".aria2"), "what a download left unfinished"),
    **dict.fromkeys((".bin", ".pt", ".pth", ".ckpt"), "PyTorch's, under another name than pytorch_model.bin"),
}
"""What files are by the ends of their names, the more telling ones first."""


def contents(folder: Path) -> str:
    """The folder's files, or the folder in it that was probably meant."""
    within = sorted(path.parent for pattern in ("*", "snapshots/*") for path in folder.glob(f"{pattern}/config.json"))
    if within:
        return f"one in {listed([str(path) for path in within])}; name that folder"
    if parts := sorted(str(path) for path in folder.glob("*/*.gguf")):
        return f"GGUF files in it, {listed(parts)}; name one of them"
    names = sorted(path.name for path in folder.iterdir())
    return listed(names) if names else "an empty folder"


def weights_instead(folder: Path) -> str:
    """The files in safetensors or links to nowhere that are there; another name says that a program wants them."""
    for path in sorted(folder.iterdir()):
        if leads_nowhere(path) or (path.suffix.lower() == IN_SAFETENSORS and not path.is_file()):
            return f"{path.name}, {no_file(path)}"
    found = sorted(path.name for path in folder.iterdir() if path.suffix.lower() == IN_SAFETENSORS)
    if not found:
        return _in_other_formats(folder)
    if found[0].startswith(MISTRALS):
        return f"{listed(found)}, in which weights have Mistral's names; get the files that transformers reads as well"
    if shard := SHARD.fullmatch(found[0]):
        index = f"{shard['stem']}.safetensors.index.json"
        return f"{listed(found)} without {index}, which says what is in them; download that file too"
    return f"{listed(found)}, which transformers does not look for; a single file must have that name"


def _in_other_formats(folder: Path) -> str:
    """The file that says most about what a folder without weights is, or the folder in it that has them."""
    if within := sorted({str(path.parent) for path in folder.glob(f"*/*{IN_SAFETENSORS}")}):
        return f"files in safetensors in {listed(within)}; they must lie next to config.json"
    files = sorted(
        path for path in (*folder.iterdir(), *folder.glob("onnx/*"), *folder.glob(UNFINISHED)) if path.is_file()
    )
    for ending, kind in OTHER_FORMATS.items():
        if named := [path.name for path in files if path.suffix.lower() == ending]:
            return f"{named[0]}, {kind}; get the model's files in safetensors, or as a GGUF file"
    return "none of them"


def listed(names: Sequence[str]) -> str:
    """The names, or the first few."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def quantization(settings: Mapping[str, Any]) -> tuple[str, str] | None:
    """The setting of a config.json by which weights are quantized, and the method; None if they are not.

    MLX has its settings under a name of its own, and newer versions under transformers' as well, without a method.
    """
    text, of_mlx = settings.get("text_config"), settings.get("quantization")
    of_text = text.get("quantization_config") if isinstance(text, dict) else None
    found = settings.get("quantization_config", of_text)
    if isinstance(found, dict) and (method := found.get("quant_method")):
        return "quantization_config", str(method)
    if isinstance(of_mlx, dict) and "bits" in of_mlx:
        return "quantization", "MLX"
    return None if found is None else ("quantization_config", "a method without a name")


def leads_nowhere(path: Path) -> bool:
    """Whether a path is a link to a file that is not there."""
    return path.is_symlink() and not path.exists()


def no_file(path: Path) -> str:
    """What a path is that leads to no file, in words."""
    if leads_nowhere(path):
        return f"a link to {path.readlink()}, which is not there"
    return "a folder" if path.is_dir() else "a pipe, a socket or a device"


def refuse_no_files(folder: Path, names: Collection[str]) -> None:
    """See that what is named as a file of the model is one.

    It may be a link to another that is not there, as in a cache that was cleaned in part; and reading from a pipe may
    never end.

    Args:
        names: patterns of the files' names.

    Raises:
        BadFile: one is.
    """
    for path in sorted(folder.iterdir()):
        if any(fnmatch(path.name, name) for name in names) and not path.is_file():
            raise BadFile(path, f"expected a file, got {no_file(path)}; download the model's files again")


def refuse_adapter(folder: Path) -> None:
    """See that a folder is a model of its own, and not what another one has learned in addition.

    Raises:
        BadFile: it is an adapter.
    """
    found = sorted(folder.glob("adapter_model*"))
    if not found and not (folder / "config.json").is_file():
        found = sorted(folder.glob(ADAPTER))
    if not found:
        return
    base = None
    if (settings := folder / ADAPTER).is_file():
        with suppress(OSError, ValueError, AttributeError):
            base = json.loads(settings.read_bytes()).get("base_model_name_or_path")
    raise BadFile(
        found[0],
        f"an adapter (LoRA) is not supported; merge it into its model{f' {base}' if base else ''} first, with peft's "
        f"merge_and_unload(), and serve the folder that save_pretrained() then writes",
    )
