"""Checkpoints in folders, as transformers saves them, to be loaded and to be damaged."""

import json
from pathlib import Path

from transformers import PreTrainedModel

from tests.support.tiny_models import byte_tokenizer


def save(folder: Path, model: PreTrainedModel) -> Path:
    """Write a model and a tokenizer of bytes."""
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
