"""A server with workers in a terminal: all of its processes hear Ctrl-C, and when the terminal is closed."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from study.common.launcher import Process, children_of, command_line_of
from study.common.scripted_workers import NAME, all_ready, ready
from tests.support.asgi_client import events_of
from tests.support.http_client import Connection
from tests.support.servers import kept_port
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
        wait_until(lambda: all_ready(process, 2), "the start of all")
        yield process


def begin_to_stream(connection: Connection, tokens: int) -> None:
    connection.send_generate("drip 4000", max_tokens=tokens)
    connection.read_head()
    connection.read_event()


def last_event(connection: Connection) -> Any:
    *_, last = events_of(b"".join(connection.chunks()))
    return last


def workers_of(supervisor: int) -> list[int]:
    return [pid for pid in children_of(supervisor) if "spawn_main" in command_line_of(pid)]


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
        assert process.wait() == (-signal.SIGINT if server == "uvicorn" else 0)
        wait_until(lambda: not any(map(command_line_of, family)), "the end of all")
        assert "Traceback" not in process.log
    assert not list(tmp_path.iterdir())


IN_A_TERMINAL = """
import pty, signal, sys
if sys.argv[1] == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
pty.spawn(sys.argv[2:])
"""
"""Runs a command in a terminal of its own, which is closed when this ends."""


@contextmanager
def in_a_terminal(folder: Path, how: str = "") -> Iterator[tuple[Process, int]]:
    """A server with a worker that is ready in a terminal, and the number of its supervisor's process."""
    command = [sys.executable, "-m", NAME, "app", "--workers", "1", "--port"]
    environ = {"TMPDIR": str(folder), "ENGINE_DRAIN": "0.3"}
    with kept_port() as port, in_a_process(["-c", IN_A_TERMINAL, how, *command, str(port)], environ) as process:
        process.given_port = port
        wait_until(process.children, "the start of the supervisor")
        (supervisor,) = process.children()
        try:
            wait_until(lambda: all_ready(process, 1), "the start of all")
            yield process, supervisor
        finally:
            with suppress(ProcessLookupError):
                os.kill(supervisor, signal.SIGTERM)
            wait_until(lambda: not command_line_of(supervisor), "the end of the supervisor")


def test_a_server_with_workers_ends_when_its_terminal_is_closed(tmp_path: Path) -> None:
    with in_a_terminal(tmp_path) as (process, supervisor), Connection(process.port) as streaming:
        family = [supervisor, *children_of(supervisor)]
        begin_to_stream(streaming, 4000)
        process.popen.kill()
        assert last_event(streaming)["error"]["type"] == "shutdown"
        wait_until(lambda: not any(map(command_line_of, family)), "the end of all")
    assert not list(tmp_path.iterdir())


def test_under_nohup_a_server_with_workers_stays_and_a_later_hangup_replaces_its_worker(tmp_path: Path) -> None:
    with in_a_terminal(tmp_path, "nohup") as (process, supervisor), Connection(process.port) as streaming:
        begin_to_stream(streaming, 400)
        (before,) = workers_of(supervisor)
        process.popen.kill()
        assert last_event(streaming)["completion_tokens"] == 400  # two seconds later
        assert workers_of(supervisor) == [before]
        os.kill(supervisor, signal.SIGHUP)
        wait_until(lambda: before not in workers_of(supervisor), "another worker")
        assert answers(process)


def test_a_worker_of_gunicorn_that_is_killed_is_replaced(tmp_path: Path) -> None:
    with serving("gunicorn", tmp_path) as process:
        victim, survivor = process.children("--bind")
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: ready(process.log) == 3, "another worker")
        assert survivor in process.children("--bind")
        assert answers(process)
