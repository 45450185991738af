"""What the libraries look for when they are imported, where it is missing."""

import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from torch._inductor.runtime.cache_dir_utils import cache_dir
from transformers import PreTrainedConfig, PreTrainedModel

from backends.missing_folders import CACHE_OF_COMPILER, make_up_for_missing_folders
from inference.weights.safetensors_header import BadFile
from inference.weights.weight_checks import refuse_larger


def test_in_a_folder_that_has_been_removed_the_root_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In one, MKL ends the process when torch is imported, and transformers raises."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    make_up_for_missing_folders()
    assert os.getcwd() == os.sep
    assert "has been removed" in caplog.text


def test_where_no_file_can_be_written_torch_finds_a_folder_for_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for one when it is imported; in a container whose file system is read-only there may be none."""

    def nowhere() -> NoReturn:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setenv(CACHE_OF_COMPILER, "")
    monkeypatch.delenv(CACHE_OF_COMPILER)
    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(FileNotFoundError):
        cache_dir()
    make_up_for_missing_folders()
    assert Path(cache_dir()).is_dir()


def test_where_all_folders_are_there_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_OF_COMPILER, "")
    monkeypatch.delenv(CACHE_OF_COMPILER)
    before = os.getcwd()
    make_up_for_missing_folders()
    assert os.getcwd() == before
    assert CACHE_OF_COMPILER not in os.environ


def test_without_docstrings_the_reason_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers makes parts of its models' classes from them."""

    def build(config: PreTrainedConfig) -> PreTrainedModel:
        raise ValueError("No `Args` or `Parameters` section is found in the docstring")

    source: Any = SimpleNamespace(config_path=Path("config.json"))
    monkeypatch.setattr(sys, "flags", SimpleNamespace(optimize=2))
    with pytest.raises(BadFile, match=r"without docstrings \(-OO, PYTHONOPTIMIZE=2\); start it with -O"):
        refuse_larger(source, PreTrainedConfig(), build)
