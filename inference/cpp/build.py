"""Compiles C++ for the processor at hand and loads it. It takes a second or two, so the units of a library are compiled
at the same time, and libraries can be kept for the next start (see `library_cache`).
"""

import ctypes
import os
import re
import shlex
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.cpp.library_cache import LibraryCache, name_of
from inference.cpp.scratch_folder import ScratchFolder
from inference.priorities import lower_priority

COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared", "-Wno-psabi")
LINKER_FAILED = re.compile(r"collect2: error: |.*linker command failed")
"""What g++ and clang++ write when the linker has failed. Its own line, before that one, says why."""
ELF_OF_64_BITS, ELF_HEADER_BYTES = b"\x7fELF\x02", 64
SECONDS = 120
"""The time limit for all compilers of a library."""


class CannotBuild(Exception):
    """There is no compiler, or it fails."""


@dataclass(frozen=True)
class Compiled:
    """A library on the disk. Leaving the context `folder` removes it, if the folder is a temporary one."""

    folder: AbstractContextManager[Any]
    path: Path
    is_kept: bool = False


@dataclass(frozen=True)
class Unit:
    """A source, and the macros that it is compiled with."""

    source: Path
    definitions: Mapping[str, int]

    @property
    def key(self) -> tuple[Path, frozenset[tuple[str, int]]]:
        return self.source, frozenset(self.definitions.items())

    @property
    def macros(self) -> list[str]:
        return [f"-D{name}={value}" for name, value in self.definitions.items()]


Wanted = tuple[frozenset[tuple[Path, frozenset[tuple[str, int]]]], str, str]
_begun: dict[Wanted, Future[Compiled]] = {}
_lock = threading.Lock()
_kept: LibraryCache | None = None


def set_cache_folder(folder: Path | None) -> None:
    """Look for libraries in a folder from now on, and put new ones there. None: compile each, and keep none."""
    global _kept
    _kept = None if folder is None else LibraryCache(folder)


def begin(*units: Unit, niceness: int = 0) -> None:
    """Start compiling what `build` will be asked for, on a thread of its own.

    Args:
        niceness: how much larger the compilers' nice value is than this process'.
    """
    outcome: Future[Compiled] = Future()
    with _lock:
        if _begun.setdefault(_wanted(units), outcome) is not outcome:
            return
    try:
        # Not on that thread: a library that is imported meanwhile would give it the interpreter's lock now and then.
        job = _Job.of(units, _kept)
    except CannotBuild as error:
        outcome.set_exception(error)
        return

    def run() -> None:
        lower_priority(niceness)
        try:
            outcome.set_result(job.compiled())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="compiler", daemon=True).start()


def build(*units: Unit) -> ctypes.CDLL:
    """Compile units to one library, unless that has begun, and load it into this process. The first one names it.

    CXX in the environment is the compiler's command, and CXXFLAGS adds to its flags, as usual.

    A call into the library releases the interpreter's lock. Its OpenMP is the one that torch has loaded, so both
    share one team of threads.

    Raises:
        CannotBuild: the message says why.
    """
    with _lock:
        begun = _begun.pop(_wanted(units), None)
    compiled = _Job.of(units, _kept).compiled() if begun is None else begun.result()
    try:
        return _loaded(compiled)
    except CannotBuild:
        if not compiled.is_kept:
            raise
    return _loaded(_Job.of(units, None).compiled())  # it is kept where no code may be run


def _loaded(compiled: Compiled) -> ctypes.CDLL:
    """Load a library. Raises CannotBuild if it is in a folder without code, or is not one."""
    with compiled.folder:
        try:
            return ctypes.CDLL(str(compiled.path))
        except OSError as error:
            raise CannotBuild(f"what was compiled cannot be loaded: {error}") from error


def _wanted(units: Sequence[Unit]) -> Wanted:
    return frozenset(unit.key for unit in units), os.environ.get("CXX", ""), os.environ.get("CXXFLAGS", "")


@dataclass(frozen=True)
class _Job:
    """What compilers are to make, and where it is kept."""

    command: Sequence[str]
    flags: Sequence[str]
    units: Sequence[Unit]
    kept: LibraryCache | None
    name: str | None  # None: what it is made of cannot be told, so it cannot be found again
    found: Path | None

    @classmethod
    def of(cls, units: Sequence[Unit], kept: LibraryCache | None) -> "_Job":
        command = compiler_command()
        flags = [*FLAGS, *_words_of("CXXFLAGS")]
        arguments = [*flags, *(macro for unit in units for macro in unit.macros)]
        name = None if kept is None else name_of([unit.source for unit in units], command, arguments)
        found = None if kept is None or name is None else kept.find(name)
        return cls(command, flags, units, kept, name, found)

    def compiled(self) -> Compiled:
        if self.found is not None:
            return Compiled(nullcontext(), self.found, is_kept=True)
        folder = _scratch_folder()
        library = folder.path / f"{self.units[0].source.stem}.so"
        try:
            self._make(library, folder)
            _refuse_cut_short(library)
        except CannotBuild:
            with folder:
                raise
        if self.kept is not None and self.name is not None:
            self.kept.put(self.name, library)
        return Compiled(folder, library)

    def _make(self, library: Path, folder: ScratchFolder) -> None:
        """Compile a single unit at once, several at the same time and then link them."""
        if len(self.units) == 1:
            (unit,) = self.units
            _run(self.command, [[*self.flags, *unit.macros, str(unit.source), "-o", str(library)]], folder)
            return
        objects = [str(folder.path / f"{number}.o") for number in range(len(self.units))]
        calls = [
            [*self.flags, *unit.macros, "-c", str(unit.source), "-o", path]
            for unit, path in zip(self.units, objects, strict=True)
        ]
        _run(self.command, calls, folder)
        _run(self.command, [[*self.flags, *objects, "-o", str(library)]], folder)


def _refuse_cut_short(library: Path) -> None:
    """See that an ELF file reaches to the end of its table of sections: loading half of one would end this process."""
    try:
        content = library.read_bytes()
    except OSError as error:
        raise CannotBuild(f"what was compiled cannot be read: {error}") from error
    if content.startswith(ELF_OF_64_BITS) and len(content) >= ELF_HEADER_BYTES:
        (begin,) = struct.unpack_from("Q", content, 0x28)
        size, count = struct.unpack_from("HH", content, 0x3A)
        if (end := begin + size * count) > len(content):
            raise CannotBuild(
                f"what was compiled has {len(content)} bytes of {end}, though the compiler has not failed"
            )


def compiler_command() -> list[str]:
    """How the compiler's command begins: the path of a program, and what CXX has after it, as in "ccache g++".

    Raises:
        CannotBuild: there is no such program.
    """
    named = _words_of("CXX")
    wanted = [named] if named else [[name] for name in COMPILERS]
    for program, *others in wanted:
        if (path := shutil.which(program)) is not None:
            return [path, *others]
    looked_for = ", ".join(words[0] for words in wanted)
    raise CannotBuild(f"found no C++ compiler (looked for {looked_for}; CXX names another)")


def _words_of(variable: str) -> list[str]:
    try:
        return shlex.split(os.environ.get(variable, ""))
    except ValueError as error:
        raise CannotBuild(f"expected {variable} as a shell would read it: {error}") from None


def _scratch_folder() -> ScratchFolder:
    try:
        return ScratchFolder()
    except OSError as error:
        raise CannotBuild(f"there is no folder to compile in: {error.strerror or error}") from error


def _run(command: Sequence[str], calls: Iterable[Sequence[str]], folder: ScratchFolder) -> None:
    """Run a compiler's command with each of these arguments, all at the same time.

    Raises:
        CannotBuild: one of them fails; the others are then stopped.
    """
    give_up_at = time.monotonic() + SECONDS
    running: list[subprocess.Popen[str]] = []
    try:
        for arguments in calls:
            running.append(_started(command, arguments, folder))
        for process in running:
            _, complaints = process.communicate(timeout=give_up_at - time.monotonic())
            if process.returncode:
                lines = complaints.strip().splitlines() or [f"it ended with status {process.returncode}"]
                errors = (line for line in lines if "error" in line and not LINKER_FAILED.match(line))
                complaint = next(errors, lines[0])
                raise CannotBuild(f"{shlex.join(command)} failed: {complaint}")
    except subprocess.TimeoutExpired as error:
        raise CannotBuild(f"{shlex.join(command)} has not ended after {SECONDS} s") from error
    finally:
        for process in running:
            with process:  # which waits for its end
                process.kill()


def _started(command: Sequence[str], arguments: Sequence[str], folder: ScratchFolder) -> "subprocess.Popen[str]":
    try:
        return subprocess.Popen(
            [*command, *arguments],
            env=os.environ | {"TMPDIR": str(folder.path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",  # it may write in another encoding than this process reads
            process_group=folder.process_group,
        )
    except OSError as error:
        raise CannotBuild(f"{shlex.join(command)}: {error}") from error
