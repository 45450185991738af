"""A folder to compile in, which outlives neither its use nor this process.

A signal ends a process without another line of its Python, and a compiler would go on for many seconds and leave its
files. So a shell waits until this process closes a pipe, or has ended, in whatever way; then it ends the compilers,
which are in its process group, and removes the folder. They have their own temporary files there, too.
"""

import os
import subprocess
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType

WATCH = """
trap '' HUP INT TERM
read -r _
kill -s TERM 0
rm -rf -- "$0"
"""


class ScratchFolder:
    """The folder and its shell. Leaving the context removes it."""

    def __init__(self) -> None:
        """Raises OSError if there is no place for a folder, or no shell."""
        self.path = Path(mkdtemp())
        try:
            self._watcher = subprocess.Popen(
                ["/bin/sh", "-c", WATCH, self.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,
            )
        except OSError:
            os.rmdir(self.path)
            raise

    @property
    def process_group(self) -> int:
        """The process group that the compilers which write there must run in."""
        return self._watcher.pid

    def __enter__(self) -> "ScratchFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watcher.communicate()
