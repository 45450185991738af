"""Keeps compiled libraries on the disk for the next start: in a folder that no other user can write to.

A library's name contains two digests. The first is of everything that it was made from: the source with its includes,
the macros, the flags, the compiler and the processor. So a library that is out of date, or was made by another machine
with the same home, is never found. The second is of the file itself, so one that was damaged is not loaded.
"""

import hashlib
import logging
import os
import re
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("engine")

MAX_LIBRARIES = 32
"""Libraries in the folder; with more, the least recently used are deleted."""
NAME = re.compile(r".+-[0-9a-f]{32}\.so")
INCLUDED = re.compile(rb'^#include "([^"]+)"', re.MULTILINE)
CPUINFO = Path("/proc/cpuinfo")
OF_PROCESSOR = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")
OF_ARM = ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features")
"""The lines of /proc/cpuinfo that may change what -march=native means."""
SECONDS = 10
"""The time limit for the compiler to print its version."""


def cache_folder(setting: str) -> Path | None:
    """The folder that the setting `compile_cache` names.

    "auto" is a folder in the user's cache (`XDG_CACHE_HOME`, or ~/.cache). None for "off", or if there is no home.
    """
    if setting == "off":
        return None
    if setting != "auto":
        return Path(setting).resolve()
    home = os.environ.get("HOME")
    caches = os.environ.get("XDG_CACHE_HOME") or (f"{home}/.cache" if home else "")
    return Path(caches, "token-by-token") if os.path.isabs(caches) else None


class LibraryCache:
    """Libraries in one folder. A failure there is not an error: the library is then compiled, or not kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._has_complained = False

    def find(self, name: str) -> Path | None:
        """Return the library that was put there under this name, if it is whole."""
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
        """Copy a library into the folder; other processes see the whole file, or none. The first failure is logged."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._is_own():
                self._write(name, library.read_bytes())
            else:
                self._complain("expected a folder that belongs to this user and that no other can write to")
        except OSError as error:
            self._complain(error.strerror or str(error))
        with suppress(OSError):  # another process may delete the same ones
            self._forget_oldest()

    def _write(self, name: str, content: bytes) -> None:
        descriptor, written = tempfile.mkstemp(dir=self._folder)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
            os.replace(written, self._folder / f"{name}-{_digest([content])}.so")
        except OSError:
            os.unlink(written)
            raise

    def _complain(self, reason: str) -> None:
        """Say once that each start compiles again, as it takes long."""
        if not self._has_complained:
            self._has_complained = True
            log.warning(
                "What was compiled is not kept in %s: %s. ENGINE_COMPILE_CACHE names another folder, or is off.",
                self._folder,
                reason,
            )

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
        for path in own[:-MAX_LIBRARIES]:
            path.unlink(missing_ok=True)


def name_of(sources: Sequence[Path], command: Sequence[str], arguments: Iterable[str]) -> str | None:
    """Name the library that a compiler makes from sources with these arguments here; None if that is not possible."""
    try:
        words = map(os.fsencode, (*command, *arguments))
        parts = [_version(command), _processor(), *words, *_contents(sources)]
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{sources[0].stem}-{_digest(parts)}"


def _version(command: Sequence[str]) -> bytes:
    """What a compiler says to --version. If it does not end, its whole process group is killed: it may be a script.

    Raises:
        OSError, subprocess.SubprocessError: it says nothing.
    """
    with subprocess.Popen(
        [*command, "--version"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        process_group=0,
    ) as process:
        try:
            version, _ = process.communicate(timeout=SECONDS)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return version


def _processor() -> bytes:
    """Describe the first processor. Raises OSError if the system does not say."""
    lines = CPUINFO.read_text().partition("\n\n")[0].splitlines()
    telling = [line for line in lines if line.partition("\t")[0].strip() in (*OF_PROCESSOR, *OF_ARM)]
    if not telling:
        raise OSError(f"{CPUINFO} names no processor")
    return "\n".join(telling).encode()


def _contents(sources: Iterable[Path]) -> list[bytes]:
    """The contents of sources and of every file that they include with quotes."""
    found: dict[Path, bytes] = {}
    waiting = [source.resolve() for source in sources]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path] = path.read_bytes()
            waiting += [(path.parent / os.fsdecode(name)).resolve() for name in INCLUDED.findall(found[path])]
    return list(found.values())


def _is_whole(path: Path) -> bool:
    """Whether a file belongs to this user, and has the digest that its name says."""
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        return False
    return path.stem.rpartition("-")[2] == _digest([path.read_bytes()])


def _digest(parts: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:32]
