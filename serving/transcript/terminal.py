"""Prints each message as it passes: one line, aligned, in colour if the terminal takes it.

#1      0.3 ms  receive  http.request                 31 B  {"prompt": "hello"}
"""

import os
import shutil
import sys
from contextlib import suppress

from serving.transcript.records import Note

COLOURS = {"scope": "\x1b[2m", "receive": "\x1b[36m", "send": "\x1b[32m"}
PLAIN = "\x1b[0m"


def show(number: int, note: Note) -> None:
    """Print a note of the request with this number. A terminal that has gone away must not end the request."""
    more = {None: "", True: " more", False: " last"}[note.more_body]
    line = f"#{number:<4} {note.t_ms:>9.1f} ms  {note.direction:<7}  {note.type + more:<24} {note.size:>8} B  "
    line += printable(note.head)
    with suppress(OSError, ValueError):
        print(_fitted(line, note.direction), flush=True)


def printable(text: str) -> str:
    """Escape line breaks and everything else that would move the cursor: a prompt must not control the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _fitted(line: str, direction: str) -> str:
    if not sys.stdout.isatty():
        return line
    line = line[: shutil.get_terminal_size().columns]
    return line if "NO_COLOR" in os.environ else COLOURS[direction] + line + PLAIN
