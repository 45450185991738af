"""A library of several units: each has a compiler of its own, and all compilers run at the same time."""

from pathlib import Path

import pytest

from inference.cpp import build
from inference.cpp.build import Unit
from tests.support.compilers import needs_compiler

MEETING = """#!/bin/sh
for output; do :; done
case "$*" in
    *-DNUMBER=*) touch "{folder}/$$.met"; while [ "$(ls {folder}/*.met | wc -l)" -lt 2 ]; do sleep 0.01; done ;;
esac
touch "$output"
"""
"""A compiler of a unit, which does not end before another one has begun."""
FAILING = """#!/bin/sh
case "$*" in
    *-DNUMBER=1*) echo "error: of the first" >&2; exit 1 ;;
esac
exec sleep 60
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(build, "_kept", None)
    return tmp_path


def use_compiler(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "cxx").write_text(script)
    (folder / "cxx").chmod(0o700)
    monkeypatch.setenv("CXX", str(folder / "cxx"))


def units(folder: Path) -> list[Unit]:
    return [Unit(folder / "unit.cpp", {"NUMBER": number}) for number in (1, 2)]


@needs_compiler
def test_units_are_one_library_and_each_has_macros_of_its_own(folder: Path) -> None:
    (folder / "first.cpp").write_text('int other(); extern "C" int answer() { return NUMBER + other(); }')
    (folder / "other.cpp").write_text("int other() { return NUMBER; }")
    first, other = Unit(folder / "first.cpp", {"NUMBER": 40}), Unit(folder / "other.cpp", {"NUMBER": 2})
    assert build.build(first, other).answer() == 42


def test_units_are_compiled_at_the_same_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_compiler(folder, MEETING.format(folder=folder), monkeypatch)
    with pytest.raises(build.CannotBuild, match="cannot be loaded"):  # what it makes is empty
        build.build(*units(folder))
    assert len(list(folder.glob("*.met"))) == 2


def test_a_unit_that_fails_ends_the_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_compiler(folder, FAILING, monkeypatch)
    with pytest.raises(build.CannotBuild, match="error: of the first"):
        build.build(*units(folder))


@needs_compiler
def test_a_library_is_compiled_again_if_any_of_its_units_has_changed(folder: Path) -> None:
    (folder / "first.cpp").write_text('int other(); extern "C" int answer() { return other(); }')
    (folder / "other.cpp").write_text("int other() { return 1; }")
    build.set_cache_folder(folder / "kept")
    parts = [Unit(folder / "first.cpp", {}), Unit(folder / "other.cpp", {})]
    assert build.build(*parts).answer() == 1
    (folder / "other.cpp").write_text("int other() { return 2; }")
    assert build.build(*parts).answer() == 2
