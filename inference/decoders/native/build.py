"""Compiles C++ for the processor at hand and loads it. It takes a second or two, so nothing is kept for the next start:
no cache that could be stale, or come from another machine.
"""

import ctypes
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared", "-Wno-psabi")
SECONDS = 120


class CannotBuild(Exception):
    """There is no compiler, or it fails."""


def build(source: Path, definitions: Mapping[str, int]) -> ctypes.CDLL:
    """Compile `source` with the macros `definitions`, and load it into this process.

    CXX in the environment names the compiler, and CXXFLAGS adds to its flags, as usual.

    A call into the library releases the interpreter's lock. Its OpenMP is the one that torch has loaded, so both
    share one team of threads.

    Raises:
        CannotBuild: the message says why.
    """
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    compiler = next(filter(None, map(shutil.which, wanted)), None)
    if compiler is None:
        raise CannotBuild(f"found no C++ compiler (looked for {', '.join(wanted)}; CXX names another)")
    with TemporaryDirectory() as folder:
        library = Path(folder) / f"{source.stem}.so"
        macros = [f"-D{name}={value}" for name, value in definitions.items()]
        command = [
            compiler,
            *FLAGS,
            *shlex.split(os.environ.get("CXXFLAGS", "")),
            *macros,
            str(source),
            "-o",
            str(library),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CannotBuild(f"{compiler}: {error}") from error
        if done.returncode:
            complaint = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
            raise CannotBuild(f"{compiler} failed: {complaint}")
        return ctypes.CDLL(str(library))
