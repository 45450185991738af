"""A stream for the log that drops lines, and does not block, while nothing reads them.

A pipe that is full, or a terminal that is stopped (Ctrl-S), blocks the one who writes to it. For a server that is the
event loop, and with it every stream, the probes, and the answer to SIGTERM.

Source: POSIX, write(): what is at most PIPE_BUF bytes long is written to a pipe as a whole.
"""

import logging
import os
import select
import stat
from io import TextIOBase
from typing import TextIO

log = logging.getLogger("engine")

AT_ONCE = select.PIPE_BUF
"""Bytes that are written at once. A pipe that says that it has room has room for this many."""
PATIENCE_MS = 100
"""Milliseconds that a reader gets who is only slow. Once lines have been lost, they are lost without a wait."""


class LogStream:
    """Writes to the file of another text stream. The first line after a loss is a warning with the number of lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lost = 0
        self._is_line_cut = False

    def write(self, text: str) -> None:
        if self._lost and not self._report_loss():
            self._lost += 1
            return
        if self._is_line_cut:
            text, self._is_line_cut = "\n" + text, False
        data = text.encode(self._stream.encoding or "utf-8", "backslashreplace")
        for begin in range(0, len(data), AT_ONCE):
            if not self._has_room(PATIENCE_MS):
                self._lost += 1
                self._is_line_cut = begin > 0
                return
            os.write(self._stream.fileno(), data[begin : begin + AT_ONCE])

    def flush(self) -> None:
        """Do nothing: all that was not lost has been written."""

    def _report_loss(self) -> bool:
        """Say in the log how many lines were lost, if there is room for that; return whether there was."""
        if not self._has_room(0):
            return False
        lost, self._lost = self._lost, 0
        log.warning("Lost %d of the log's lines, as nothing read them", lost)
        return self._lost == 0

    def _has_room(self, patience_ms: int) -> bool:
        poller = select.poll()
        poller.register(self._stream.fileno(), select.POLLOUT)
        return bool(poller.poll(patience_ms))


def stop_waiting_for_readers(logger: logging.Logger) -> None:
    """Have those of a logger's handlers that write to pipes and terminals do so through a `LogStream`."""
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:
            handler.setStream(without_waiting(handler.stream))


def without_waiting(stream: TextIO) -> "TextIO | LogStream":
    """Return a stream for the log in the place of one that may block."""
    return LogStream(stream) if _may_block(stream) else stream


def _may_block(stream: object) -> bool:
    """Whether this is the stream of a pipe, a socket or a device, and not of a file."""
    try:
        mode = os.fstat(stream.fileno()).st_mode if isinstance(stream, TextIOBase) else stat.S_IFREG
    except (OSError, ValueError):  # closed, or without a file
        return False
    return not stat.S_ISREG(mode)
