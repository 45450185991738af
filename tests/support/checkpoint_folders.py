"""Checkpoints in folders, as transformers saves them, to be loaded and to be damaged."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from config import Config
from inference.weights.checkpoint import Checkpoint, load_checkpoint
from tests.support.tiny_models import byte_tokenizer


def save(folder: Path, model: PreTrainedModel) -> Path:
    """Write a model and a tokenizer of bytes."""
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def load(path: Path, **settings: Any) -> Checkpoint:
    return load_checkpoint(Config(model=str(path), device="cpu", **settings))


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
