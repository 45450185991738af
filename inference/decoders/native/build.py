"""Compiles C++ for the processor at hand and loads it. It takes a second or two, so nothing is kept for the next start:
no cache that could be stale, or come from another machine.
"""

import ctypes
import os
import shlex
import shutil
import subprocess
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared", "-Wno-psabi")
SECONDS = 120


class CannotBuild(Exception):
    """There is no compiler, or it fails."""


@dataclass(frozen=True)
class Compiled:
    """A library on the disk, until it is loaded or no longer wanted."""

    folder: TemporaryDirectory[str]
    path: Path


Wanted = tuple[Path, frozenset[tuple[str, int]], str, str]
_begun: dict[Wanted, Future[Compiled]] = {}
_lock = threading.Lock()


def begin(source: Path, definitions: Mapping[str, int]) -> None:
    """Start compiling what `build` will be asked for, on a thread of its own."""
    outcome: Future[Compiled] = Future()
    with _lock:
        if _begun.setdefault(_wanted(source, definitions), outcome) is not outcome:
            return

    def run() -> None:
        try:
            outcome.set_result(_compile(source, definitions))
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
    compiled = _compile(source, definitions) if begun is None else begun.result()
    with compiled.folder:
        return ctypes.CDLL(str(compiled.path))


def _wanted(source: Path, definitions: Mapping[str, int]) -> Wanted:
    environment = os.environ.get("CXX", ""), os.environ.get("CXXFLAGS", "")
    return (source, frozenset(definitions.items()), *environment)


def _compile(source: Path, definitions: Mapping[str, int]) -> Compiled:
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    compiler = next(filter(None, map(shutil.which, wanted)), None)
    if compiler is None:
        raise CannotBuild(f"found no C++ compiler (looked for {', '.join(wanted)}; CXX names another)")
    folder = TemporaryDirectory()
    try:
        return Compiled(folder, _compiled_in(Path(folder.name), compiler, source, definitions))
    except CannotBuild:
        folder.cleanup()
        raise


def _compiled_in(folder: Path, compiler: str, source: Path, definitions: Mapping[str, int]) -> Path:
    library = folder / f"{source.stem}.so"
    macros = [f"-D{name}={value}" for name, value in definitions.items()]
    flags = [*FLAGS, *shlex.split(os.environ.get("CXXFLAGS", ""))]
    command = [compiler, *flags, *macros, str(source), "-o", str(library)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuild(f"{compiler}: {error}") from error
    if done.returncode:
        complaint = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
        raise CannotBuild(f"{compiler} failed: {complaint}")
    return library
