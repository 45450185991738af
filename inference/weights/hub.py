"""Downloads a checkpoint from the Hugging Face hub: `owner/name`, `owner/name@revision`, `owner/name/file.gguf`.

The files are kept where all programs of Hugging Face keep them (`HF_HOME`), and are not downloaded twice. Progress bars
are shown in the terminal. `HF_TOKEN` gives access to gated and private models, `HF_ENDPOINT` names another hub. With
`HF_HUB_OFFLINE=1`, and when the hub cannot be reached, only files on the disk are used.
"""

import contextlib
import logging
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._validators import validate_repo_id

from inference.weights.gguf.parts import all_parts, models_among
from interface.errors import LoadError

log = logging.getLogger("engine")

SETTINGS = (".json", ".jinja", ".txt", "tokenizer.model")
"""The ends of the names of small files, which are downloaded with any weights."""

TEMPLATES = "additional_chat_templates/*.jinja"
WEIGHTS = (
    ("model.safetensors", "model-*-of-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model-*-of-*.bin"),
)
"""Kinds of weight files. Only the first kind that a repository has is downloaded: others may hold the same weights."""


def download(name: str, weights: bool = True) -> Path:
    """Download a checkpoint, and return its folder or GGUF file on the disk.

    Args:
        weights: whether they are needed; without them, only the small files are downloaded.

    Raises:
        LoadError: there is no such checkpoint, or the hub cannot be reached or keeps it closed.
    """
    model, _, revision = name.partition("@")
    repository, file = _split(name, model)
    try:
        folder = _snapshot(repository, revision or None, file) if weights else _settings(repository, revision or None)
    except GatedRepoError:
        raise LoadError(
            f"{name}: the hub shows this model only to accounts that have accepted its terms; accept them on "
            f"{constants.ENDPOINT}/{repository} and set HF_TOKEN to a token of that account"
        ) from None
    except RevisionNotFoundError:
        raise LoadError(f"{name}: the hub's {repository} has no revision {revision!r}") from None
    except RepositoryNotFoundError:
        raise LoadError(
            f"{name}: no folder here, and no model of this name on the hub, or one that HF_TOKEN does not open"
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise LoadError(f"{name}: the hub at {constants.ENDPOINT} answered with status {status}") from error
    path = folder / file if file else folder
    if not path.exists():
        raise LoadError(f"{name}: {path.name} is not among the files of {repository} on this disk")
    return path


def _split(name: str, model: str) -> tuple[str, str | None]:
    """Split a name into a repository and, if the name continues, a file in it."""
    parts = model.split("/")
    repository, file = "/".join(parts[:2]), "/".join(parts[2:]) or None
    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise LoadError(
            f"{name}: no folder here, and no hub name; expected owner/name or owner/name@revision"
        ) from None
    if file is not None and not file.endswith(".gguf"):
        raise LoadError(f"{name}: expected a folder, a hub name (owner/name), or a .gguf file in one")
    return repository, file


def _snapshot(repository: str, revision: str | None, file: str | None) -> Path:
    if constants.is_offline_mode():
        return _on_disk(repository, revision, file, "HF_HUB_OFFLINE is set")
    try:
        files = [sibling.rfilename for sibling in HfApi().model_info(repository, revision=revision).siblings or ()]
    except (HfHubHTTPError, ValueError):
        raise
    except Exception as error:  # what a connection fails with, which depends on the client that the hub's package has
        log.debug("No connection", exc_info=error)
        return _on_disk(repository, revision, file, f"the hub at {constants.ENDPOINT} cannot be reached")
    wanted = all_parts(file) if file else _wanted(repository, files)
    if missing := set(wanted) - set(files):
        raise LoadError(f"{repository}/{file}: the hub's {repository} has no file {min(missing)}")
    log.info("Downloading %s (%d files), unless they are here …", repository, len(wanted))
    return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))


def _settings(repository: str, revision: str | None) -> Path:
    """Download the small files alone; if the hub cannot be reached, use those on the disk."""
    small = [f"*{ending}" for ending in SETTINGS]
    snapshot_download(repository, revision=revision, allow_patterns=[TEMPLATES])
    return Path(snapshot_download(repository, revision=revision, allow_patterns=small, ignore_patterns=["*/*"]))


def _on_disk(repository: str, revision: str | None, file: str | None, why: str) -> Path:
    """Return the files of an earlier download, if it has all that are needed."""
    small = [f"*{ending}" for ending in SETTINGS]
    kinds = [all_parts(file)] if file else [*WEIGHTS, ("*.gguf",)]
    for weights in kinds:
        with contextlib.suppress(LocalEntryNotFoundError):
            folder = Path(
                snapshot_download(
                    repository,
                    revision=revision,
                    local_files_only=True,
                    allow_patterns=[*weights, *([] if file else small)],
                    ignore_patterns=None if file else ["*/*"],
                )
            )
            if any(any(folder.glob(pattern)) for pattern in weights):
                return folder
    of = f"{repository}@{revision}" if revision else repository
    raise LoadError(
        f"{of}: {why}, and the model is not on this disk, or not all of it (looked in {constants.HF_HUB_CACHE}). "
        f"Give a folder or a .gguf file, or download it where there is a network"
    )


def _wanted(repository: str, files: Sequence[str]) -> list[str]:
    """Return the files to download: the weights of one kind, and the small files."""
    top = [file for file in files if "/" not in file]
    settings = [file for file in top if file.endswith(SETTINGS)]
    settings += [file for file in files if fnmatch(file, TEMPLATES)]
    for patterns in WEIGHTS:
        if weights := [file for file in top if any(fnmatch(file, pattern) for pattern in patterns)]:
            return [*settings, *weights]
    models = models_among(files)
    if len(models) == 1:
        return all_parts(models[0])
    if models:
        raise LoadError(
            f"{repository}: it has {len(models)} GGUF files; name one of them, as in {repository}/{models[0]}. "
            f"There are {', '.join(models)}"
        )
    raise LoadError(f"{repository}: it has neither weights in safetensors nor a .gguf file")
