"""Under `uvicorn app:app` the application handles the connections, from the first one on."""

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator

import pytest

import contract
from study.common.launcher import LISTENING, Process, status_of
from tests.support.http_client import Connection
from tests.support.idle_time import IdleTime
from tests.support.serving import DOORS, in_a_process, wait_until

UVICORN = ["-m", "uvicorn", "--factory", "tests.support.serving:scripted_app", "--port", "0", "--http"]
POST = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
MEGABYTE = json.dumps({"prompt": "x", **{f"f{number:06}": 1 for number in range(70_000)}}).encode()
CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(b"1\r\n%c\r\n" % byte for byte in MEGABYTE[:100_000])
pytestmark = [
    pytest.mark.parametrize("name", DOORS),
    pytest.mark.parametrize("http", ["h11", "httptools"]),
]


@contextlib.contextmanager
def listening(name: str, http: str, **settings: str) -> Iterator[Process]:
    with in_a_process([*UVICORN, http], {"DOOR": name} | settings) as process:
        process.find(LISTENING)
        yield process


def seconds_of_health(process: Process) -> float:
    stopwatch = IdleTime(process.popen.pid)
    with Connection(process.port) as observer:
        assert observer.request("GET", "/health").status == 200
    return stopwatch.seconds


def test_half_a_request_is_given_up_even_if_no_request_ever_came(name: str, http: str) -> None:
    with listening(name, http, ENGINE_HEAD_LIMIT="0.3") as process, Connection(process.port) as half:
        half.send(b"GET /health HTT")
        assert half.read_head()[0] == 408
        assert half.is_closed()


def test_a_head_without_an_end_is_refused(name: str, http: str) -> None:
    with listening(name, http) as process, Connection(process.port) as endless:
        with contextlib.suppress(OSError):
            endless.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X-Name: value\r\n" * 20_000)
        assert endless.read_head()[0] == 400


def test_health_is_answered_soon_whatever_bodies_come(name: str, http: str) -> None:
    """The bar is 50 ms at the 99th percentile; a slow machine gets ten times as much."""
    assert len(MEGABYTE) < contract.MAX_TEXT_BYTES
    with listening(name, http) as process, contextlib.ExitStack() as stack:
        wait_until(lambda: status_of(process.target) == "ok")
        connections = [stack.enter_context(Connection(process.port)) for _ in range(4)]
        for connection in connections:
            connection.socket.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                connection.socket.send(POST + CHUNKS)
        took = [seconds_of_health(process) for _ in range(20)]
        for connection in connections:
            connection.reset()
        with Connection(process.port) as large:
            large.send(POST + b"Content-Length: %d\r\n\r\n" % len(MEGABYTE) + MEGABYTE)
            took += [seconds_of_health(process) for _ in range(20)]
            assert large.read_response().status == 413
    assert sorted(took)[-2] < 0.5, sorted(took)[-5:]


def test_more_connections_than_the_system_has_files_for_leave_the_server_able_to_hear(name: str, http: str) -> None:
    command = ["-c", f"ulimit -n 320; exec {shlex.join([sys.executable, *UVICORN])} {http}"]
    with (
        in_a_process(command, {"DOOR": name}, program="/bin/bash") as process,
        contextlib.ExitStack() as stack,
    ):
        process.find(LISTENING)
        for _ in range(400):
            stack.enter_context(Connection(process.port)).send(b"GET /health HTT")
        wait_until(lambda: status_of(process.target) == "ok")
        assert "Too many open files" not in process.log
        assert len(process.log) < 10_000
