"""Keeps compiled libraries on the disk for the next start: in a folder that no other user can write to.

A library's name says what it was made of: the source with everything that it includes, the macros, the flags, the
compiler and the processor. So one that is out of date, or of another machine that has the same home, is never found;
and since the name says what is in the file as well, one that was damaged is not loaded.
"""

import hashlib
import logging
import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("engine")

KEPT = 32
"""Libraries in the folder; the oldest go when there are more."""
NAME = re.compile(r".+-[0-9a-f]{32}\.so")
INCLUDED = re.compile(rb'^#include "([^"]+)"', re.MULTILINE)
CPUINFO = Path("/proc/cpuinfo")
OF_PROCESSOR = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")
OF_ARM = ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features")
"""What it says that a compiler might go by."""
SECONDS = 10


def folder_of(setting: str) -> Path | None:
    """The folder that a setting names, if it is a name.

    "auto" is where programs keep what they can make again: `XDG_CACHE_HOME`, or ~/.cache; none if the user has no home.
    "off" is none either.
    """
    if setting == "off":
        return None
    if setting != "auto":
        return Path(setting).resolve()
    home = os.environ.get("HOME")
    caches = os.environ.get("XDG_CACHE_HOME") or (f"{home}/.cache" if home else "")
    return Path(caches, "token-by-token") if os.path.isabs(caches) else None


class Kept:
    """Libraries in one folder. What goes wrong there is no error: the library is then compiled, or not kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, name: str) -> Path | None:
        """The library that was put there under this name."""
        if not self._is_own():
            return None
        with suppress(OSError):
            for path in self._folder.glob(f"{name}-*.so"):
                if _is_whole(path):
                    with suppress(OSError):
                        os.utime(path)  # it is still in use
                    return path
        return None

    def put(self, name: str, library: Path) -> None:
        """Keep a library: there is the whole file under its name, or none."""
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._is_own():
                log.warning(
                    "What was compiled is not kept in %s: expected a folder that belongs to this user and that no "
                    "other can write to. ENGINE_COMPILE_CACHE names another, or is off.",
                    self._folder,
                )
                return
            content = library.read_bytes()
            descriptor, written = tempfile.mkstemp(dir=self._folder)
            try:
                with open(descriptor, "wb") as file:
                    file.write(content)
                os.replace(written, self._folder / f"{name}-{_digest([content])}.so")
            except OSError:
                os.unlink(written)
                raise
            self._forget_oldest()

    def _is_own(self) -> bool:
        """Whether only this user can write there."""
        try:
            found = self._folder.lstat()
        except OSError:
            return False
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022

    def _forget_oldest(self) -> None:
        own = [path for path in self._folder.iterdir() if NAME.fullmatch(path.name)]  # a user may have named any folder
        own.sort(key=lambda path: path.stat().st_mtime)
        for path in own[:-KEPT]:
            path.unlink(missing_ok=True)


def name_of(source: Path, compiler: str, arguments: Iterable[str]) -> str | None:
    """What a library is called that a compiler makes with these arguments here; None if that cannot be told."""
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, timeout=SECONDS, check=True).stdout
        parts = [version, _processor(), os.fsencode(compiler), *map(os.fsencode, arguments), *_contents(source)]
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{source.stem}-{_digest(parts)}"


def _processor() -> bytes:
    """What the first processor is; an OSError if the system does not say."""
    lines = CPUINFO.read_text().partition("\n\n")[0].splitlines()
    telling = [line for line in lines if line.partition("\t")[0].strip() in (*OF_PROCESSOR, *OF_ARM)]
    if not telling:
        raise OSError(f"{CPUINFO} names no processor")
    return "\n".join(telling).encode()


def _contents(source: Path) -> list[bytes]:
    """A source and every file of its own that it includes."""
    found: dict[Path, bytes] = {}
    waiting = [source.resolve()]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path] = path.read_bytes()
            waiting += [(path.parent / os.fsdecode(name)).resolve() for name in INCLUDED.findall(found[path])]
    return list(found.values())


def _is_whole(path: Path) -> bool:
    """Whether a file is this user's own, and holds what its name says."""
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        return False
    return path.stem.rpartition("-")[2] == _digest([path.read_bytes()])


def _digest(parts: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:32]
