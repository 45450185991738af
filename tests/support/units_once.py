"""Units of C++ are compiled once in a test run, whichever libraries they become a part of.

A user's machine keeps whole libraries, of which it has few. Tests make dozens, for models of many shapes, and the
products with quantized matrices are the same units in most of them.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from inference.cpp import build
from inference.cpp.library_cache import LibraryCache, name_of
from inference.cpp.scratch_folder import ScratchFolder

Run = Callable[[Sequence[str], Iterable[Sequence[str]], ScratchFolder], None]


def each_once(run: Run, libraries: LibraryCache, objects: Path) -> Run:
    """Return a stand-in for `build._run` that keeps in a folder what units become, as long as `libraries` are kept."""

    def run_what_is_new(command: Sequence[str], calls: Iterable[Sequence[str]], scratch: ScratchFolder) -> None:
        if build._kept is not libraries:  # the test is about compiling
            run(command, calls, scratch)
            return
        new: list[Sequence[str]] = []
        made: list[tuple[Path, Path | None]] = []
        for call in calls:
            kept, output = _place_of(command, call, objects), Path(call[-1])
            if kept is not None and kept.exists():
                shutil.copyfile(kept, output)
            else:
                new.append(call)
                made.append((output, kept))
        run(command, new, scratch)
        for output, kept in made:
            if kept is not None:
                _keep(output, kept)

    return run_what_is_new


def _place_of(command: Sequence[str], call: Sequence[str], objects: Path) -> Path | None:
    """Where the object file of a call is kept; None if it makes another kind of file."""
    *arguments, source, _, _ = call
    if arguments[-1] != "-c":
        return None
    name = name_of([Path(source)], command, arguments)
    return None if name is None else objects / f"{name}.o"


def _keep(output: Path, kept: Path) -> None:
    """Other processes of the run see the whole file, or none."""
    kept.parent.mkdir(exist_ok=True)
    part = kept.with_suffix(f".{os.getpid()}")
    shutil.copyfile(output, part)
    part.replace(kept)
