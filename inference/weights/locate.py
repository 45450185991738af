"""Finds a checkpoint: a folder or a GGUF file on the disk, or a name on the hub, from which it is downloaded."""

from pathlib import Path

from inference.weights.found_instead import leads_nowhere, no_file
from inference.weights.gguf.file import is_gguf
from inference.weights.gguf.parts import models_in
from inference.weights.hub import download
from interface.errors import LoadError

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""The names of weight files, in the order in which transformers looks for them."""
OF_FOLDERS = (".safetensors", ".json", ".bin")
"""The ends of the names of files that are parts of a checkpoint in a folder."""


def locate(name: str, weights: bool = True) -> Path:
    """Return the folder or the GGUF file that a name stands for; a folder may hold a single GGUF model.

    Args:
        weights: whether they are needed; without them, only the small files are downloaded.

    Raises:
        LoadError: there is no checkpoint of this name.
    """
    path = Path(name)
    if leads_nowhere(path):
        raise LoadError(f"{name}: this is {no_file(path)}")
    if not path.exists():
        if path.is_absolute() or name.startswith("."):
            raise LoadError(f"{name}: expected a folder with a config.json or a GGUF file, found none")
        path = download(name, weights)
    if not path.is_dir():
        if path.is_file() and (is_gguf(path) or path.suffix == ".gguf"):
            return path
        folder = f"; name the folder that it is in, {path.parent}" if path.suffix in OF_FOLDERS else ""
        raise LoadError(f"{name}: expected a folder or a GGUF file, got another file{folder}")
    if not _is_transformers_folder(path, weights) and (files := models_in(path)):
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise LoadError(f"{name}: expected one GGUF file in the folder, found {names}; name one of them")
        return files[0]
    return path


def _is_transformers_folder(path: Path, weights: bool) -> bool:
    """Whether a folder is a checkpoint in transformers' format, with its weights if those are needed."""
    has_weights = any((path / name).is_file() for name in WEIGHTS)
    return (path / "config.json").is_file() and (has_weights or not weights)
