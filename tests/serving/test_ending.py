"""Under plain uvicorn a server ends within `drain` and a second, whatever its clients do."""

import contextlib
import json
import time
from collections.abc import Callable
from itertools import cycle

import pytest

from backends.stepped import LARGE_PROMPT
from study.common.launcher import Process
from tests.support.asgi_client import events_of
from tests.support.http_client import Connection
from tests.support.idle_time import seconds_until_end
from tests.support.serving import DOORS, in_a_process, wait_until

both_doors = pytest.mark.parametrize("name", DOORS)
both_protocols = pytest.mark.parametrize("http", ["h11", "httptools"])
DRAIN = 0.3
PROMISED = DRAIN + 1.0
MARGIN = 8
"""How many times longer than promised it may take; without an end of our own, it would take for ever."""
HALF = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
TOKENIZED = cycle(
    [("/generate", "sleep 60"), ("/generate", "sleep 60 " + "x" * LARGE_PROMPT), ("/tokenize", "sleep 60")]
)
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def half_a_body(connection: Connection) -> None:
    connection.send(HALF)


def half_a_head(connection: Connection) -> None:
    connection.send(HALF[:40])


def pipelined(connection: Connection) -> None:
    connection.send_generate("drip 4000", max_tokens=4000)
    connection.send(HEALTH * 500)


def unread(connection: Connection) -> None:
    connection.send_generate("flood 400", max_tokens=400)


def unread_and_pipelined(connection: Connection) -> None:
    unread(connection)
    connection.send(HEALTH * 500)


def tokenized(connection: Connection) -> None:
    """A thread cannot be stopped, so the end must not wait for those that tokenize."""
    path, prompt = next(TOKENIZED)
    body = json.dumps({"prompt": prompt}).encode()
    connection.send_request("POST", path, body, Content_Type="application/json")


# Each is a server. No generation begins while all threads tokenize, so these clients have one for themselves.
WAYS: dict[str, list[Callable[[Connection], None]]] = {
    "half sent, unread": [half_a_body, half_a_head, pipelined, unread, unread_and_pipelined],
    "tokenized": [tokenized],
}


def serving(name: str, http: str = "h11") -> contextlib.AbstractContextManager[Process]:
    arguments = ["-m", "uvicorn", "--factory", "tests.support.serving:scripted_app", "--port", "0", "--http", http]
    return in_a_process(arguments, {"DOOR": name, "ENGINE_DRAIN": str(DRAIN)})


@both_doors
@both_protocols
@pytest.mark.parametrize("ways", WAYS.values(), ids=WAYS)
def test_no_client_delays_the_end(name: str, http: str, ways: list[Callable[[Connection], None]]) -> None:
    """Thirty clients of each way, in turn: of those that generate, some run and some wait."""
    with serving(name, http) as process, contextlib.ExitStack() as stack:
        observer = stack.enter_context(Connection(process.port))
        wait_until(lambda: observer.request("GET", "/health").status == 200)
        for way in 30 * ways:
            way(stack.enter_context(Connection(process.port, 4096)))
        time.sleep(0.3)
        process.interrupt()
        assert seconds_until_end(process) < MARGIN * PROMISED
        assert "Traceback" not in process.log, process.log
        assert "ERROR" not in process.log, process.log
        assert "Finished server process" in process.log


@both_doors
def test_a_stream_is_still_told_of_the_end_when_others_are_half_sent(name: str) -> None:
    with serving(name) as process, Connection(process.port) as half, Connection(process.port) as connection:
        wait_until(lambda: connection.request("GET", "/health").status == 200)
        half.send(HALF)
        connection.send_generate("drip 4000", max_tokens=4000)
        connection.read_head()
        process.interrupt()
        *_, last = events_of(b"".join(connection.chunks()))
        assert last["error"]["type"] == "shutdown"
        refused = half.read_response()
        assert (refused.status, "retry-after" in refused.headers) == (503, True)
        assert "shutting down" in json.dumps(refused.json())


@both_doors
def test_a_second_ctrl_c_leaves_no_traceback(name: str) -> None:
    with serving(name) as process, Connection(process.port) as connection, Connection(process.port) as half:
        wait_until(lambda: connection.request("GET", "/health").status == 200)
        half.send(HALF)
        connection.send_generate("drip 4000", max_tokens=4000)
        connection.read_head()
        process.interrupt()
        time.sleep(0.15)
        process.interrupt()
        process.wait()
        assert "Traceback" not in process.log, process.log
