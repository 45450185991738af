"""Over a real uvicorn, a head may have so many bytes and no more; a connection may bring any number of heads, and what
is none of them does not touch the answer to an earlier one.
"""

from typing import Any, BinaryIO

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


def test_a_head_without_an_end_behind_a_running_request_is_not_kept(door: Door) -> None:
    """On httptools, whose parser would keep all of it. On h11, uvicorn reads nothing more until the answer is sent."""
    with on_a_socket(door, http=SlicedHttpTools) as service, Connection(service.port) as connection:
        service.engine.hold()
        connection.send_generate("count 300", max_tokens=300)
        wait_until(lambda: service.engine.counters().running == 1)
        connection.send(b"GET /health HTTP/1.1\r\n" + FIELDS)
        service.engine.release()
        assert connection.read_response().body.endswith(b"[DONE]\n\n")
        assert connection.is_closed()


KEPT, CLOSED = b"Connection: keep-alive\r\n", b"Connection: close\r\n"
STREAM = b'{"prompt": "count 50", "max_tokens": 50, "stream": true}'


@both_protocols
@pytest.mark.parametrize(("version", "headers"), [(b"1.1", KEPT), (b"1.1", CLOSED), (b"1.0", b"")])
@pytest.mark.parametrize("following", [b"\r\n", b"nonsense\r\n\r\n"])
def test_a_stream_is_whole_whatever_follows_its_request(
    door: Door, http: Any, version: bytes, headers: bytes, following: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    request = POST.replace(b"1.1", version) + headers + b"Content-Length: %d\r\n\r\n" % len(STREAM) + STREAM
    with on_a_socket(door, http=http) as service:
        for follows_at_once in (True, False):
            service.engine.hold()
            with Connection(service.port) as connection, connection.socket.makefile("rb") as answer:
                connection.send(request + following if follows_at_once else request)
                assert answer.readline().split()[1] == b"200"
                if not follows_at_once:
                    connection.send(following)
                service.engine.release()
                assert tokens_until_done(answer) == 50
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


def tokens_until_done(stream: BinaryIO) -> int:
    """How many tokens come before the stream's last event."""
    tokens = 0
    for line in stream:
        if b"[DONE]" in line:
            return tokens
        tokens += b'"token":' in line
    raise AssertionError(f"the stream was cut off after {tokens} tokens")
