"""The names of GGUF files: a model may be split into `model-00001-of-00003.gguf` and so on."""

import re
from collections.abc import Iterable
from pathlib import Path

PART = re.compile(r"(?P<stem>.*)-(?P<number>(?!00000)\d{5})-of-(?P<count>(?!00000)\d{5})\.gguf")

NO_MODEL = re.compile(r".*mmproj.*|imatrix.*|.*imatrix\.gguf")
"""The names of llama.cpp's files that lie next to models: for images and sounds, and what models are quantized with.
(`model-imatrix-Q4_K_M.gguf` is a model that was.)"""


def is_first(name: str) -> bool:
    """Whether a file is a whole model, or the first of its parts."""
    part = PART.fullmatch(name)
    return part is None or int(part["number"]) == 1


def all_parts(name: str) -> list[str]:
    """The names of all files of the model that this file is, or is a part of, in their order."""
    part = PART.fullmatch(name)
    if part is None:
        return [name]
    count = int(part["count"])
    return [f"{part['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def models_among(names: Iterable[str]) -> list[str]:
    """The GGUF models among file names, each by its first part. What belongs to a model is left out."""
    return sorted(name for name in names if name.lower().endswith(".gguf") and is_first(name) and not _is_extra(name))


def _is_extra(name: str) -> bool:
    return NO_MODEL.fullmatch(name.rpartition("/")[2].lower()) is not None


def models_in(folder: Path) -> list[Path]:
    return [folder / name for name in models_among(path.name for path in folder.iterdir() if path.is_file())]
