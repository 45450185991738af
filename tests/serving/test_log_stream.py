"""A log that nothing reads: lines are lost, and no request waits."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pytest

from serving import log_stream
from serving.log_stream import LogStream
from serving.logs import set_up_logging

log = logging.getLogger("engine")


@dataclass
class Pipe:
    """A pipe that the log goes to; `read` returns all that is in it."""

    reader: int
    writer: TextIO

    def read(self) -> str:
        found = b""
        os.set_blocking(self.reader, False)
        while True:
            try:
                found += os.read(self.reader, 2**16)
            except BlockingIOError:
                return found.decode()


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    monkeypatch.setattr(log_stream, "PATIENCE_MS", 1)
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as file:
        yield Pipe(reader, file)
    os.close(reader)


@pytest.fixture
def logged(pipe: Pipe) -> Iterator[Pipe]:
    """The pipe, as where the service's own lines go."""
    handler = logging.StreamHandler(pipe.writer)
    log.addHandler(handler)
    log_stream.stop_waiting_for_readers(log)
    yield pipe
    log.removeHandler(handler)


def test_a_log_that_nothing_reads_loses_lines_and_later_says_how_many(logged: Pipe) -> None:
    line = "x" * 999
    for _ in range(1000):  # a megabyte, and a pipe holds 64 KiB
        log.warning(line)
    kept = logged.read().splitlines()
    assert set(kept) == {line}
    log.warning("after")
    assert logged.read().splitlines() == [f"Lost {1000 - len(kept)} of the log's lines, as nothing read them", "after"]
    log.warning("and on")
    assert logged.read() == "and on\n"


def test_a_line_that_was_cut_ends_before_the_next(logged: Pipe) -> None:
    log.warning("x" * 2**20)
    cut = logged.read()
    assert set(cut) == {"x"}
    log.warning("after")
    assert logged.read().splitlines() == ["", "Lost 1 of the log's lines, as nothing read them", "after"]


def test_characters_that_the_log_has_no_bytes_for_are_escaped(pipe: Pipe) -> None:
    LogStream(pipe.writer).write("é \udc80\n")
    assert pipe.read() == "é \\udc80\n"


def test_what_uvicorn_writes_to_a_pipe_does_not_wait_either(pipe: Pipe, tmp_path: Path) -> None:
    logger = logging.getLogger("uvicorn")
    with open(tmp_path / "log", "w") as file:
        handlers: list[logging.StreamHandler[TextIO]] = [
            logging.StreamHandler(pipe.writer),
            logging.StreamHandler(file),
        ]
        for handler in handlers:
            logger.addHandler(handler)
        try:
            set_up_logging()
            set_up_logging()
            assert isinstance(handlers[0].stream, LogStream)
            assert handlers[1].stream is file  # a write to a file does not wait
            handlers[0].stream.write("a line\n")
            assert pipe.read() == "a line\n"
        finally:
            for handler in handlers:
                logger.removeHandler(handler)
