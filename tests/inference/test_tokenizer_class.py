"""A tokenizer.json that transformers reads as another class than it was made for does not lose texts in silence."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from inference.weights.checkpoint import Checkpoint
from inference.weights.tokenizer_class import beginning
from interface.errors import LoadError
from tests.support.checkpoint_folders import edit_json, load
from tests.support.tiny_models import bpe_tokenizer, byte_fallback_tokenizer, byte_tokenizer, random_model


def cut_in_digits() -> PreTrainedTokenizerFast:
    """Byte-level BPE that has every digit and every letter by itself, as no class of transformers does."""
    tokenizer = bpe_tokenizer()
    split: Any = pre_tokenizers.Split(Regex(r"\p{N}|\p{L}"), "isolated")
    byte_level: Any = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    return tokenizer


def loaded(folder: Path, tokenizer: PreTrainedTokenizerFast, tokenizer_class: str) -> Checkpoint:
    random_model("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    edit_json(folder / "tokenizer_config.json", tokenizer_class=tokenizer_class)
    return load(folder)


@pytest.mark.parametrize(
    ("make", "tokenizer_class"),
    [
        (byte_fallback_tokenizer, "GPT2Tokenizer"),
        (byte_fallback_tokenizer, "Qwen2TokenizerFast"),
        (byte_tokenizer, "GemmaTokenizer"),
    ],
)
def test_a_class_that_loses_what_the_file_keeps_is_refused(
    make: Callable[[], PreTrainedTokenizerFast], tokenizer_class: str, tmp_path: Path
) -> None:
    with pytest.raises(LoadError) as refused:
        loaded(tmp_path, make(), tokenizer_class)
    name = tokenizer_class.removesuffix("Fast")
    assert str(refused.value).startswith(f"{tmp_path / 'tokenizer.json'}: transformers reads it as {name}, for the")


def test_a_class_that_cuts_texts_differently_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        loaded(tmp_path, cut_in_digits(), "GPT2Tokenizer")
    assert "tokenizer.json: by itself it cuts texts differently from GPT2Tokenizer, as which" in caplog.text


@pytest.mark.parametrize("tokenizer_class", ["GPT2Tokenizer", "PreTrainedTokenizerFast", "NoSuchTokenizer"])
def test_the_files_own_class_or_none_is_no_reason_to_say_anything(
    tokenizer_class: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        checkpoint = loaded(tmp_path, bpe_tokenizer(), tokenizer_class)
    assert checkpoint.tokenizer("the cat sat")["input_ids"] == bpe_tokenizer()("the cat sat")["input_ids"]
    assert "by itself" not in caplog.text


@pytest.mark.parametrize("indent", [None, 2])
def test_the_beginning_of_a_file_is_what_it_says_before_its_vocabulary(indent: int | None) -> None:
    described = json.loads(byte_fallback_tokenizer().backend_tokenizer.to_str())
    found = beginning(json.dumps(described, indent=indent))
    assert found == {name: part for name, part in described.items() if name != "model"}
    assert found["decoder"]
    assert beginning("{}") == {}
    assert beginning(' { "normalizer" : { "type" : "NFC" } } ') == {"normalizer": {"type": "NFC"}}
