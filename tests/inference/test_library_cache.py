"""The next start reuses a compiled library if its inputs are the same, and its file is unchanged and the user's own."""

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from inference.cpp import build, library_cache
from inference.cpp.build import Unit
from inference.cpp.library_cache import LibraryCache, cache_folder
from tests.support.compilers import needs_compiler

COMPILER = """#!/bin/sh
if [ "$1" = --version ]; then echo {version}; exit; fi
echo "$@" >> {log}
for argument; do last=$argument; done
echo "library $$" > "$last"
"""
"""A compiler in little: it notes what it is asked for, and what it makes is never the same twice."""

Compile = Callable[..., Path]


@pytest.fixture(autouse=True)
def known_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nflags\t\t: fpu avx2\n")
    monkeypatch.setattr(library_cache, "CPUINFO", cpuinfo)
    return cpuinfo


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "number.hpp").write_text('#include "../number.hpp"\n')
    (tmp_path / "number.hpp").write_text("#pragma once\n")
    source = tmp_path / "answer.cpp"
    source.write_text('#include <cmath>\n#include "parts/number.hpp"\n')
    return source


@pytest.fixture
def compile(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> Compile:
    """Compile as one start does; what is not kept is gone then."""

    def compile(version: str = "1.0", folder: Path = tmp_path / "kept", **definitions: int) -> Path:
        compiler = tmp_path / "compiler"
        compiler.write_text(COMPILER.format(version=version, log=tmp_path / "log"))
        compiler.chmod(0o700)
        monkeypatch.setenv("CXX", str(compiler))
        compiled = build._Job.of([Unit(source, definitions)], LibraryCache(folder)).compiled()
        with compiled.folder:
            return compiled.path

    return compile


def times_compiled(folder: Path) -> int:
    log = folder / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_the_second_start_compiles_nothing(compile: Compile, tmp_path: Path) -> None:
    assert not compile(ANSWER=42).exists()
    found = compile(ANSWER=42)
    assert found.read_text().startswith("library")
    assert compile(ANSWER=42) == found
    assert times_compiled(tmp_path) == 1


def test_whatever_is_different_is_compiled(
    compile: Compile, source: Path, tmp_path: Path, known_processor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile()
    compile(ANSWER=42)
    compile(version="1.1")
    source.write_text(source.read_text() + "// changed\n")
    compile()
    (tmp_path / "number.hpp").write_text("// changed, and included by what is included\n")
    compile()
    known_processor.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512f\n")
    compile()
    monkeypatch.setenv("CXXFLAGS", "-O0")
    compile()
    assert times_compiled(tmp_path) == 7
    compile()
    assert times_compiled(tmp_path) == 7


def test_what_is_damaged_is_compiled_again(compile: Compile, tmp_path: Path) -> None:
    compile()
    (damaged,) = (tmp_path / "kept").iterdir()
    damaged.write_bytes(damaged.read_bytes()[:-1])
    compile()
    assert times_compiled(tmp_path) == 2
    assert compile() != damaged
    assert times_compiled(tmp_path) == 2


@pytest.mark.parametrize("mode", [0o777, 0o720])
def test_a_folder_that_others_can_write_to_is_not_used(
    mode: int, compile: Compile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compile()
    (tmp_path / "kept").chmod(mode)
    compile()
    assert times_compiled(tmp_path) == 2
    assert "no other can write to" in caplog.text
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_a_file_that_others_can_write_to_is_not_loaded(compile: Compile, tmp_path: Path) -> None:
    compile()
    (library,) = (tmp_path / "kept").iterdir()
    library.chmod(0o666)
    assert compile() != library
    assert times_compiled(tmp_path) == 2


def test_another_users_folder_is_not_used(compile: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile()
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    compile()
    assert times_compiled(tmp_path) == 2


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(
    compile: Compile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    for _ in range(2):
        compile(folder=tmp_path / "file" / "kept")
    assert times_compiled(tmp_path) == 2
    assert f"is not kept in {tmp_path}/file/kept: Not a directory" in caplog.text


def test_a_full_disk_is_reported_once_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(old: str, new: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    library, libraries = tmp_path / "library.so", LibraryCache(tmp_path / "kept")
    library.write_text("library")
    for number in range(2):
        libraries.put(f"library-{number}", library)
    assert caplog.text.count("No space left on device. ENGINE_COMPILE_CACHE names another folder") == 1
    assert list((tmp_path / "kept").iterdir()) == []


def test_where_the_processor_is_not_known_nothing_is_kept(
    compile: Compile, tmp_path: Path, known_processor: Path
) -> None:
    known_processor.write_text("processor\t: 0\n")
    for _ in range(2):
        compile()
    assert times_compiled(tmp_path) == 2
    assert not (tmp_path / "kept").exists()


def test_a_compiler_that_does_not_say_its_version_leaves_no_process_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_cache, "SECONDS", 0.5)
    compiler, open_by_all = tmp_path / "compiler", tmp_path / "fifo"
    os.mkfifo(open_by_all)
    compiler.write_text(f'#!/bin/sh\nexec 9<> "{open_by_all}"; echo begun >&9; sleep 600; exit 0\n')
    compiler.chmod(0o700)
    with open(os.open(open_by_all, os.O_RDONLY | os.O_NONBLOCK)) as processes:
        assert library_cache.name_of([tmp_path / "answer.cpp"], [str(compiler)], []) is None
        os.set_blocking(processes.fileno(), True)
        assert processes.read() == "begun\n", "and then the end, as none is left that could write more"


def test_the_folder_is_the_users_own_and_does_not_grow_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_cache, "MAX_LIBRARIES", 5)
    library, libraries = tmp_path / "library.so", LibraryCache(tmp_path / "new" / "kept")
    for number in range(8):
        library.write_text(str(number))
        libraries.put(f"library-{number}", library)
        if found := libraries.find(f"library-{number}"):
            os.utime(found, (number, number))
        libraries.find("library-0")  # it is in use
    assert (tmp_path / "new" / "kept").stat().st_mode & 0o777 == 0o700
    assert len(list((tmp_path / "new" / "kept").iterdir())) == 5
    assert libraries.find("library-0") is not None
    assert libraries.find("library-1") is None


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_cache, "MAX_LIBRARIES", 5)
    folder = tmp_path / "kept"
    (folder / "folder").mkdir(parents=True)
    folder.chmod(0o700)
    others = [folder / name for name in ("thesis.txt", "libanswer.so")]
    for path in others:
        path.write_text("irreplaceable")
        os.utime(path, (0, 0))
    library = tmp_path / "library.so"
    for number in range(8):
        library.write_text(str(number))
        LibraryCache(folder).put(f"library-{number}", library)
    assert all(path.exists() for path in others)
    assert len(list(folder.glob("library-*"))) == 5


def test_the_setting_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/user")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder("auto") == Path("/home/user/.cache/token-by-token")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder("auto") == Path("/caches/token-by-token")
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert cache_folder("auto") is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    assert cache_folder("auto") is None
    assert cache_folder("off") is None
    (tmp_path / "link").symlink_to(tmp_path / "compiled")
    assert cache_folder(str(tmp_path / "link")) == (tmp_path / "compiled").resolve()


@needs_compiler
def test_a_kept_library_is_loaded_and_one_that_cannot_be_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "answer.cpp"
    source.write_text('extern "C" int answer() { return ANSWER; }')
    build.set_cache_folder(tmp_path / "kept")
    assert build.build(Unit(source, {"ANSWER": 42})).answer() == 42
    loaded: list[str] = []
    refused: list[str] = []
    load = ctypes.CDLL

    def load_if_allowed(path: str) -> ctypes.CDLL:
        loaded.append(path)
        if path in refused:
            raise OSError("failed to map segment from shared object")
        return load(path)

    monkeypatch.setattr(ctypes, "CDLL", load_if_allowed)
    assert build.build(Unit(source, {"ANSWER": 42})).answer() == 42
    (library,) = (tmp_path / "kept").iterdir()
    assert loaded == [str(library)]
    refused.append(str(library))
    assert build.build(Unit(source, {"ANSWER": 42})).answer() == 42
    assert len(set(loaded)) == 2
