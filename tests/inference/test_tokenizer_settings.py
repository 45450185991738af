"""What is wrong in a tokenizer_config.json is told by the setting's name."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from inference.weights.tokenizer_settings import misfit
from interface.errors import LoadError
from tests.support.checkpoint_folders import edit_json, load, save
from tests.support.tiny_models import random_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("settings"), random_model("llama"))


@contextmanager
def edited(path: Path, **changes: object) -> Iterator[None]:
    """Change a file's settings for a while."""
    sound = path.read_text()
    edit_json(path, **changes)
    try:
        yield
    finally:
        path.write_text(sound)


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("eos_token", 0, "a token's text, or an AddedToken with its type"),
        ("bos_token", {"content": "<eos>"}, "a token's text, or an AddedToken with its type"),
        ("extra_special_tokens", [None], "a list of tokens' texts"),
        ("added_tokens_decoder", None, "an object with each token under its id"),
        ("added_tokens_decoder", {"0": 1}, "an object with each token under its id"),
        ("model_max_length", "512", "a number of tokens"),
        ("tokenizer_class", 5, "the name of a class"),
        ("chat_template", [{"text": "x"}], "a text, or a list of them with their names"),
        ("padding_side", "top", "left or right"),
    ],
    ids=str,
)
def test_a_setting_of_which_no_tokenizer_can_be_made_is_refused_by_name(
    setting: str, value: Any, expected: str, folder: Path
) -> None:
    told = rf"tokenizer_config\.json: {setting}: expected {expected}, got {re.escape(repr(value))}$"
    with edited(folder / "tokenizer_config.json", **{setting: value}), pytest.raises(LoadError, match=told):
        load(folder)


def test_the_class_of_which_no_tokenizer_can_be_made_is_named(folder: Path) -> None:
    told = r"json: no tokenizer can be made of it, as tokenizer_class CodeLlamaTok"
    path = folder / "tokenizer_config.json"
    with edited(path, tokenizer_class="CodeLlamaTokenizer"), pytest.raises(LoadError, match=told):
        load(folder)


def test_a_tokenizer_that_leaves_out_merges_by_chance_is_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    model = json.loads(path.read_text())["model"] | {"dropout": 0.5}
    told = r"tokenizer\.json: dropout: expected null, .*, got 0\.5$"
    with edited(path, model=model), pytest.raises(LoadError, match=told):
        load(folder)


@pytest.mark.parametrize(
    ("file", "settings", "told"),
    [
        ("special_tokens_map.json", '{"eos_token": 5}', "eos_token: expected a token's text, .*, got 5"),
        ("added_tokens.json", '{"<x>": "y"}', "<x>: expected the token's id, got 'y'"),
    ],
)
def test_a_setting_in_another_file_is_reported_with_that_file(
    file: str, settings: str, told: str, folder: Path
) -> None:
    path = folder / file
    path.write_text(settings)
    try:
        with pytest.raises(LoadError, match=rf"{file}: {told}$"):
            load(folder)
    finally:
        path.unlink()


@pytest.mark.parametrize(
    "sound",
    [
        {
            "eos_token": None,
            "bos_token": {"__type": "AddedToken", "content": "<s>"},
            "tokenizer_class": None,
            "chat_template": None,
        },
        {"added_tokens_decoder": {"3": {"content": "<x>"}}, "extra_special_tokens": {"image": "<image>"}},
        {
            "additional_special_tokens": ["<a>", {"__type": "AddedToken", "content": "<b>"}],
            "model_max_length": 1e30,
            "padding_side": "left",
        },
        {"chat_template": [{"name": "default", "template": "x"}]},
    ],
)
def test_settings_that_transformers_takes_are_not_blamed(sound: dict[str, Any]) -> None:
    assert misfit(sound) is None
