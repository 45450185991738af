"""A GGUF file that was opened ahead is not read again, unless it has been changed."""

import os
from pathlib import Path

import pytest

from inference.weights.gguf.ahead import OpenedAhead
from inference.weights.gguf.file import BadGGUF, GGUFFile
from tests.support.gguf_files import write_vocabulary


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return named(tmp_path / "model.gguf", "first")


def named(path: Path, name: str) -> Path:
    return write_vocabulary(path, 1, {"general.name": name, "tokenizer.ggml.tokens": ["a"]})


def name_of(file: GGUFFile) -> str:
    return str(file.metadata["general.name"])


def test_what_was_opened_ahead_is_taken_once(path: Path) -> None:
    opened = OpenedAhead()
    file = opened.open(path)
    assert opened.take(path) is file
    assert opened.take(path) is not file


def test_a_file_that_was_changed_meanwhile_is_read_again(path: Path) -> None:
    opened = OpenedAhead()
    file = opened.open(path)
    os.replace(named(path.with_name("other.gguf"), "second"), path)
    assert (name_of(file), name_of(opened.take(path))) == ("first", "second")


def test_another_file_is_not_taken_for_it(path: Path) -> None:
    opened = OpenedAhead()
    opened.open(path)
    assert name_of(opened.take(named(path.with_name("other.gguf"), "other"))) == "other"


def test_nothing_is_kept_of_a_file_that_cannot_be_read_or_is_not_needed_any_more(path: Path) -> None:
    opened = OpenedAhead()
    file = opened.open(path)
    opened.give_back()
    assert opened.take(path) is not file
    path.write_bytes(b"GGUF")
    with pytest.raises(BadGGUF):
        opened.open(path)
    assert name_of(opened.take(named(path, "third"))) == "third"
