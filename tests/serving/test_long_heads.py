"""Over a real uvicorn, a head may have so many bytes and no more; a connection may bring any number of heads."""

import contextlib
from typing import Any

import pytest

from serving.protocol import MAX_HEAD, SlicedH11, SlicedHttpTools
from tests.support.http_client import Connection
from tests.support.serving import Door, on_a_socket, wait_until

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Padding: "
POST = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
FIELDS = b"X-Name: value\r\n" * (2 * MAX_HEAD // 15)
both_protocols = pytest.mark.parametrize("http", [SlicedH11, SlicedHttpTools])


@both_protocols
@pytest.mark.parametrize("length", [200, 10_000], ids=["in one slice", "in many slices"])
def test_a_connection_brings_any_number_of_heads(door: Door, http: Any, length: int) -> None:
    with on_a_socket(door, http=http) as service, Connection(service.port) as connection:
        for _ in range(2 * MAX_HEAD // length):
            connection.send(HEALTH + b"x" * length + b"\r\n\r\n")
            assert connection.read_response().status == 200


@both_protocols
def test_a_head_may_be_followed_by_a_longer_body(door: Door, http: Any) -> None:
    body = b'{"prompt": "hello"}' + b" " * (2 * MAX_HEAD)
    with on_a_socket(door, http=http) as service, Connection(service.port) as connection:
        for _ in range(2):
            assert connection.request("POST", "/generate", body, Content_Type="application/json").status == 200


@both_protocols
@pytest.mark.parametrize("end", [b"0\r\n" + FIELDS, b"1;" + b"x" * 2 * MAX_HEAD], ids=["fields", "an extension"])
def test_what_comes_around_a_body_has_an_end(door: Door, http: Any, end: bytes) -> None:
    with on_a_socket(door, http=http) as service, Connection(service.port) as endless:
        endless.send(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n" + end)
        assert endless.read_head()[0] == 400


def test_a_head_without_an_end_behind_a_running_request_ends_both(door: Door) -> None:
    """On httptools, whose parser would keep all of it. On h11, uvicorn reads nothing more until the answer is sent."""
    with on_a_socket(door, http=SlicedHttpTools) as service, Connection(service.port) as connection:
        service.engine.hold()
        connection.send_generate("count 300", max_tokens=300)
        wait_until(lambda: service.engine.counters().running == 1)
        connection.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            connection.send(b"GET /health HTTP/1.1\r\n" + FIELDS)
        wait_until(lambda: service.engine.aborted == [1], "the abort")
