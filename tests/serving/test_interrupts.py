"""Ctrl-C in the terminal of a server with workers: all of its processes hear it, and its supervisor passes it on."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from study.common.launcher import Process, command_line_of
from study.common.scripted_workers import NAME, ready
from tests.support.asgi_client import events_of
from tests.support.http_client import Connection
from tests.support.serving import in_a_process, wait_until

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the processes are found in /proc")
GUNICORN = ["-m", "gunicorn", "--config", "python:tests.support.scripted_gunicorn", "--no-control-socket"]
SERVERS = {
    "uvicorn": ["-m", NAME, "app", "--workers", "2"],
    "gunicorn": [*GUNICORN, "--bind", "127.0.0.1:0", "--workers", "2", "app:app"],
}


@contextmanager
def serving(server: str, folder: Path) -> Iterator[Process]:
    """A server that is ready, whose folder for the socket is made in `folder`."""
    with in_a_process(SERVERS[server], {"TMPDIR": str(folder), "ENGINE_DRAIN": "1000"}) as process:
        wait_until(lambda: ready(process.log) == 2, "the start of all")
        yield process


def begin_to_stream(connection: Connection, tokens: int) -> None:
    connection.send_generate("drip 4000", max_tokens=tokens)
    connection.read_head()
    connection.read_event()


def last_event(connection: Connection) -> Any:
    *_, last = events_of(b"".join(connection.chunks()))
    return last


def answers(process: Process) -> bool:
    with Connection(process.port) as connection:
        connection.send_generate("hello", stream=False)
        return connection.read_response().status == 200


@pytest.mark.parametrize("server", SERVERS)
def test_the_first_ctrl_c_lets_streams_end_the_second_ends_them_and_nothing_is_left(
    server: str, tmp_path: Path
) -> None:
    with serving(server, tmp_path) as process, Connection(process.port) as short, Connection(process.port) as endless:
        begin_to_stream(short, 400)
        begin_to_stream(endless, 4000)
        family = process.children()
        process.interrupt_all()
        assert last_event(short)["completion_tokens"] == 400
        process.interrupt_all()
        assert last_event(endless)["error"]["type"] == "shutdown"
        process.wait()
        wait_until(lambda: not any(map(command_line_of, family)), "the end of all")
        assert "Traceback" not in process.log
    assert not list(tmp_path.iterdir())


def test_a_worker_of_gunicorn_that_is_killed_is_replaced(tmp_path: Path) -> None:
    with serving("gunicorn", tmp_path) as process:
        victim, survivor = process.children("--bind")
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: ready(process.log) == 3, "another worker")
        assert survivor in process.children("--bind")
        assert answers(process)
