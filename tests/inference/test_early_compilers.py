"""What a GGUF model needs compiled is known before torch is imported, and is compiled once."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from config import Config
from inference import early_compilers
from inference.cpp import build
from inference.cpp.build import Unit
from inference.decoders.native import decoder
from inference.early_compilers import compile_ahead
from inference.priorities import LEAST_URGENT
from inference.sampling.source import CHOOSER
from inference.weights.checkpoint import load_checkpoint
from inference.weights.gguf.ahead import OPENED
from inference.weights.gguf.file import GGUFFile
from inference.weights.llama import Llama
from inference.weights.memory_ahead import AHEAD
from tests.support.compilers import needs_compiler
from tests.support.gguf_llamas import written
from tests.support.smollm2 import smollm2_file

Wanted = tuple[Unit, ...]


class Asked(Exception):
    """A stand-in for a compiler that records what it was asked for."""


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Turn the cache of libraries off, so that the tests count only their own compilers, and leave no opened file."""
    monkeypatch.setattr(build, "_kept", None)
    yield
    OPENED.give_back()


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Wanted]:
    wanted: list[Wanted] = []
    monkeypatch.setattr(early_compilers, "begin", lambda *units, niceness: wanted.append(units))
    return wanted


@pytest.fixture(autouse=True)
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How much memory was asked for."""
    sizes: list[int] = []
    monkeypatch.setattr(AHEAD, "fetch", sizes.append)
    return sizes


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(None, "auto"), (None, "float32"), ("gemma3", "float32"), ("phi3, in part", "auto"), ("mixtral", "auto")],
)
def test_what_is_compiled_ahead_is_what_the_decoder_asks_for(
    name: str | None, dtype: str, begun: list[Wanted], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = smollm2_file() if name is None else written(tmp_path, name, "Q4_0")
    config = Config(model=str(path), compile=True, dtype=dtype, context=64, device="cpu")
    compile_ahead(config)

    def ask(*units: Unit) -> None:
        begun.append(units)
        raise Asked

    monkeypatch.setattr(decoder, "build", ask)
    model = load_checkpoint(config).model
    assert isinstance(model, Llama)
    with pytest.raises(Asked):
        decoder.build_for(model, model.formats)
    assert begun == [(CHOOSER,), begun[2], begun[2]]


@pytest.mark.parametrize(("kind", "has_plain"), [("Q4_1", 0), ("F16", 1)])
def test_products_with_plain_matrices_are_compiled_only_if_there_are_some(
    kind: str, has_plain: int, begun: list[Wanted], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = GGUFFile.open(smollm2_file())
    name = "blk.0.ffn_up.weight"
    changed = replace(file.tensors[name], kind=GGMLQuantizationType[kind])
    monkeypatch.setattr(GGUFFile, "open", lambda path: replace(file, tensors={**file.tensors, name: changed}))
    compile_ahead(Config(model=str(smollm2_file()), compile=True, device="cpu"))
    assert begun[1][0].definitions["HAS_PLAIN"] == has_plain


def test_memory_is_fetched_for_what_the_file_holds(begun: list[Wanted], fetched: list[int]) -> None:
    compile_ahead(Config(model=str(smollm2_file()), compile=True, device="cpu"))
    assert fetched == [GGUFFile.open(smollm2_file()).bytes_held]


@pytest.mark.parametrize("settings", [{"compile": False}, {"device": "cuda"}])
def test_nothing_is_compiled_for_a_model_that_will_not_need_it(
    settings: dict[str, bool | str], begun: list[Wanted], fetched: list[int]
) -> None:
    compile_ahead(Config(**{"model": str(smollm2_file()), "compile": True, **settings}))  # type: ignore[arg-type]
    assert begun == []
    assert fetched == []


def test_what_is_wrong_with_a_file_is_left_to_its_loading(
    begun: list[Wanted], fetched: list[int], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(smollm2_file().read_bytes()[:2000])
    compile_ahead(Config(model=str(broken), compile=True, device="cpu"))
    assert begun == [(CHOOSER,)]
    assert fetched == []


@pytest.mark.parametrize("key", ["expert_count", "attention.temperature_scale"])
def test_a_list_where_there_should_be_a_number_is_left_to_its_loading(
    key: str, begun: list[Wanted], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = GGUFFile.open(smollm2_file())
    changed = replace(file, metadata={**file.metadata, f"llama.{key}": np.array([1, 2])})
    monkeypatch.setattr(GGUFFile, "open", lambda path: changed)
    compile_ahead(Config(model=str(smollm2_file()), compile=True, device="cpu"))
    assert begun[0] == (CHOOSER,)


@needs_compiler
def test_a_library_that_has_begun_is_not_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "answer.cpp"
    source.write_text('extern "C" int answer() { return ANSWER; }')
    compilers: list[str] = []
    start = subprocess.Popen
    lock = threading.Lock()

    def popen(command: list[str], **settings: object) -> object:
        if str(source) in command:  # and is not the shell that watches their folder
            with lock:
                compilers.append(command[0])
        return start(command, **settings)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", popen)
    for _ in range(2):
        build.begin(Unit(source, {"ANSWER": 42}))
    assert build.build(Unit(source, {"ANSWER": 42})).answer() == 42
    assert len(compilers) == 1
    assert build.build(Unit(source, {"ANSWER": 7})).answer() == 7
    assert len(compilers) == 2


def test_what_went_wrong_ahead_is_said_when_the_library_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    build.begin(Unit(tmp_path / "answer.cpp", {}))
    with pytest.raises(build.CannotBuild, match="no-such-compiler"):
        build.build(Unit(tmp_path / "answer.cpp", {}))


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_a_compiler_that_begins_early_gives_way_to_what_its_start_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler, nice = tmp_path / "compiler", tmp_path / "nice"
    compiler.write_text(f"#!/bin/sh\nnice >{nice}\nexit 1\n")
    compiler.chmod(0o700)
    monkeypatch.setenv("CXX", str(compiler))
    build.begin(Unit(tmp_path / "answer.cpp", {}), niceness=7)
    with pytest.raises(build.CannotBuild):
        build.build(Unit(tmp_path / "answer.cpp", {}))
    assert int(nice.read_text()) == min(os.nice(0) + 7, LEAST_URGENT)
