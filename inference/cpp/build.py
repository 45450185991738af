"""Compiles C++ for the processor at hand and loads it. It takes a second or two, so libraries can be kept for the next
start (see `library_cache`).
"""

import ctypes
import os
import shlex
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from inference.cpp.library_cache import LibraryCache, name_of
from inference.priorities import lower_priority

COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared", "-Wno-psabi")
SECONDS = 120


class CannotBuild(Exception):
    """There is no compiler, or it fails."""


@dataclass(frozen=True)
class Compiled:
    """A library on the disk. Leaving the context `folder` removes it, if the folder is a temporary one."""

    folder: AbstractContextManager[Any]
    path: Path
    is_kept: bool = False


Wanted = tuple[Path, frozenset[tuple[str, int]], str, str]
_begun: dict[Wanted, Future[Compiled]] = {}
_lock = threading.Lock()
_kept: LibraryCache | None = None


def set_cache_folder(folder: Path | None) -> None:
    """Look for libraries in a folder from now on, and put new ones there. None: compile each, and keep none."""
    global _kept
    _kept = None if folder is None else LibraryCache(folder)


def begin(source: Path, definitions: Mapping[str, int], patience: int = 0) -> None:
    """Start compiling what `build` will be asked for, on a thread of its own.

    Args:
        patience: the compiler's nice value is larger than this process' by so much.
    """
    outcome: Future[Compiled] = Future()
    with _lock:
        if _begun.setdefault(_wanted(source, definitions), outcome) is not outcome:
            return
    try:
        # Not on that thread: a library that is imported meanwhile would give it the interpreter's lock now and then.
        job = _Job.of(source, definitions, _kept)
    except CannotBuild as error:
        outcome.set_exception(error)
        return

    def run() -> None:
        lower_priority(patience)
        try:
            outcome.set_result(job.compiled())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="compiler", daemon=True).start()


def build(source: Path, definitions: Mapping[str, int]) -> ctypes.CDLL:
    """Compile `source` with the macros `definitions`, unless that has begun, and load it into this process.

    CXX in the environment names the compiler, and CXXFLAGS adds to its flags, as usual.

    A call into the library releases the interpreter's lock. Its OpenMP is the one that torch has loaded, so both
    share one team of threads.

    Raises:
        CannotBuild: the message says why.
    """
    with _lock:
        begun = _begun.pop(_wanted(source, definitions), None)
    compiled = _compile(source, definitions, _kept) if begun is None else begun.result()
    try:
        return _loaded(compiled)
    except CannotBuild:
        if not compiled.is_kept:
            raise
    return _loaded(_compile(source, definitions, None))  # it is kept where no code may be run


def _loaded(compiled: Compiled) -> ctypes.CDLL:
    """Load a library. Raises CannotBuild if it is in a folder without code, or is none."""
    with compiled.folder:
        try:
            return ctypes.CDLL(str(compiled.path))
        except OSError as error:
            raise CannotBuild(f"what was compiled cannot be loaded: {error}") from error


def _wanted(source: Path, definitions: Mapping[str, int]) -> Wanted:
    environment = os.environ.get("CXX", ""), os.environ.get("CXXFLAGS", "")
    return (source, frozenset(definitions.items()), *environment)


def _compile(source: Path, definitions: Mapping[str, int], kept: LibraryCache | None) -> Compiled:
    return _Job.of(source, definitions, kept).compiled()


@dataclass(frozen=True)
class _Job:
    """What a compiler is to make, and where it is kept."""

    compiler: str
    arguments: Sequence[str]
    source: Path
    kept: LibraryCache | None
    name: str | None  # None: what it is made of cannot be told, so it cannot be found again
    found: Path | None

    @classmethod
    def of(cls, source: Path, definitions: Mapping[str, int], kept: LibraryCache | None) -> "_Job":
        wanted = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
        compiler = next(filter(None, map(shutil.which, wanted)), None)
        if compiler is None:
            raise CannotBuild(f"found no C++ compiler (looked for {', '.join(wanted)}; CXX names another)")
        macros = [f"-D{name}={value}" for name, value in definitions.items()]
        arguments = [*FLAGS, *_flags_of_user(), *macros]
        name = None if kept is None else name_of(source, compiler, arguments)
        found = None if kept is None or name is None else kept.find(name)
        return cls(compiler, arguments, source, kept, name, found)

    def compiled(self) -> Compiled:
        if self.found is not None:
            return Compiled(nullcontext(), self.found, is_kept=True)
        folder = _temporary_folder()
        library = Path(folder.name, f"{self.source.stem}.so")
        try:
            _run([self.compiler, *self.arguments, str(self.source), "-o", str(library)])
        except CannotBuild:
            folder.cleanup()
            raise
        if self.kept is not None and self.name is not None:
            self.kept.put(self.name, library)
        return Compiled(folder, library)


def _flags_of_user() -> list[str]:
    try:
        return shlex.split(os.environ.get("CXXFLAGS", ""))
    except ValueError as error:
        raise CannotBuild(f"expected CXXFLAGS as a shell would read them: {error}") from None


def _temporary_folder() -> TemporaryDirectory[str]:
    try:
        return TemporaryDirectory()
    except OSError as error:
        raise CannotBuild(f"there is no folder to compile in: {error.strerror or error}") from error


def _run(command: Sequence[str]) -> None:
    compiler = command[0]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",  # it may write in another encoding than this process reads
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuild(f"{compiler}: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        complaint = next((line for line in lines if "error" in line), lines[0])
        raise CannotBuild(f"{compiler} failed: {complaint}")
