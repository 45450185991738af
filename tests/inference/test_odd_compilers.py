"""A compiler that cannot be used is a reason to go without, whatever is wrong with it."""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from inference.cpp import build
from inference.cpp.build import Unit
from tests.support.compilers import needs_compiler
from tests.support.serving import wait_until

OUTPUT = 'for argument; do output=$argument; done; echo "int main" > "$output"'
COMPILERS = {
    "its error has bytes of another encoding": "printf 'error: \\344\\n' >&2; exit 1",
    "it fails without a word": "exit 3",
    "it makes nothing": "exit 0",
    "what it makes is no library": OUTPUT,
    "it reads its input": "cat; exit 1",
}


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cxx").write_text(f"#!/bin/sh\n{OUTPUT}\n")
    (tmp_path / "cxx").chmod(0o700)
    monkeypatch.setenv("CXX", str(tmp_path / "cxx"))
    build.set_cache_folder(None)
    source = tmp_path / "source.cpp"
    source.touch()
    return source


def reason(source: Path) -> str:
    """Why nothing could be compiled."""
    with pytest.raises(build.CannotBuild) as caught:
        build.build(Unit(source, {}))
    return str(caught.value)


@pytest.mark.parametrize("script", COMPILERS.values(), ids=list(COMPILERS))
def test_an_odd_compiler_is_one_that_cannot_build(source: Path, script: str) -> None:
    (source.parent / "cxx").write_text(f"#!/bin/sh\n{script}\n")
    assert len(reason(source).splitlines()) == 1
    assert not reason(source).endswith(": ")


@needs_compiler
@pytest.mark.parametrize("left", [0, 32, 500, -8000, -1])
def test_half_a_library_is_not_loaded_or_kept(left: int, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading most of these would end the process with a signal."""
    monkeypatch.delenv("CXX")
    compiler = shlex.join(build.compiler_command())
    size = str(left) if left >= 0 else f"$(($(wc -c < $output) - {-left}))"
    made = f'{compiler} "$@" && for output; do :; done && truncate -s {size} "$output"'
    (source.parent / "cxx").write_text(f"#!/bin/sh\n{made}\n")
    monkeypatch.setenv("CXX", str(source.parent / "cxx"))
    source.write_text('extern "C" int answer() { return 42; }')
    build.set_cache_folder(source.parent / "kept")
    assert reason(source).startswith("what was compiled ")
    assert left in (0, 32) or not (source.parent / "kept").exists()


@pytest.mark.parametrize(
    "last", ["collect2: error: ld returned 1 exit status", "clang++: error: linker command failed"]
)
def test_a_linker_that_fails_is_quoted_itself(source: Path, last: str) -> None:
    (source.parent / "cxx").write_text(f"#!/bin/sh\nprintf 'ld: No space left on device\\n{last}\\n' >&2; exit 1\n")
    assert reason(source).endswith("failed: ld: No space left on device")


def test_a_compiler_that_does_not_end_is_named_without_its_arguments(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "SECONDS", 0.1)
    (source.parent / "cxx").write_text("#!/bin/sh\nexec sleep 60\n")
    assert reason(source) == f"{source.parent / 'cxx'} has not ended after 0.1 s"


@pytest.mark.parametrize("variable", ["CXX", "CXXFLAGS"])
def test_words_that_a_shell_could_not_read_are_named(
    variable: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "-DNAME='half")
    assert reason(source).startswith(f"expected {variable} as a shell would read it: ")


@needs_compiler
def test_a_compiler_may_be_named_with_a_program_before_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ccache is, and with an argument that has a space. What it makes is kept for the same words alone."""
    source.write_text('extern "C" int answer() { return ANSWER; }')
    (tmp_path / "before").write_text('#!/bin/sh\necho "$1" >> "$0.log"; shift; exec "$@"\n')
    (tmp_path / "before").chmod(0o700)
    monkeypatch.delenv("CXX")
    compiler = shlex.join(build.compiler_command())
    build.set_cache_folder(tmp_path / "kept")
    for first in ("a word", "a word", "another"):
        monkeypatch.setenv("CXX", f"{tmp_path / 'before'} '{first}' {compiler}")
        assert build.build(Unit(source, {"ANSWER": 42})).answer() == 42
    assert len(list((tmp_path / "kept").iterdir())) == 2
    assert set((tmp_path / "before.log").read_text().splitlines()) == {"a word", "another"}


def test_a_compiler_puts_its_own_temporary_files_where_there_is_room(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python takes another folder if TMPDIR cannot be used, but a compiler does not."""
    monkeypatch.setenv("TMPDIR", "/proc")
    (source.parent / "cxx").write_text('#!/bin/sh\necho "an error: $TMPDIR" >&2; exit 1\n')
    folder = Path(reason(source).partition("an error: ")[2])
    assert folder.parent == Path(tempfile.gettempdir())
    assert not folder.exists()


def test_without_a_folder_for_temporary_files_nothing_is_compiled(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose file system is read-only."""
    monkeypatch.setattr(tempfile, "tempdir", str(source.parent / "none"))
    assert reason(source).startswith("there is no folder to compile in: ")


BUILD = "import sys; from pathlib import Path; from inference.cpp.build import *; build(Unit(Path(sys.argv[1]), {}))"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_compiler_ends_with_the_process_that_started_it_and_leaves_nothing(source: Path, number: int) -> None:
    """It has child processes, as g++ has, and files of its own."""
    temporary, open_by_all = source.parent / "temporary", source.parent / "fifo"
    temporary.mkdir()
    os.mkfifo(open_by_all)
    script = f'exec 9> "{open_by_all}"; touch "$TMPDIR/own"; echo begun >&9; sleep 600; exit 0'
    (source.parent / "cxx").write_text(f"#!/bin/sh\n{script}\n")
    process = subprocess.Popen([sys.executable, "-c", BUILD, source], env=os.environ | {"TMPDIR": str(temporary)})
    with open_by_all.open() as compilers:
        assert compilers.readline() == "begun\n"
        assert len(list(temporary.glob("*/own"))) == 1
        process.send_signal(number)
        assert process.wait(30) == -number
        assert compilers.read() == "", "the end, once none of them is left"
    wait_until(lambda: not list(temporary.iterdir()))
