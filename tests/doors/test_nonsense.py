"""Clients that speak HTTP badly, or not at all, cause no error in the server, and the next one is served."""

from contextlib import suppress
from importlib import import_module

import pytest

from study.common.engine import HELLO
from tests.support.http_client import Connection
from tests.support.servers import SERVERS
from tests.support.serving import DOORS, on_a_socket, wait_until

BODY = b'{"prompt": "hello"}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def get(path: bytes = b"/health", headers: bytes = b"", method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    return method + b" " + path + b" HTTP/" + version + b"\r\nHost: localhost\r\n" + headers + b"\r\n"


def post(headers: bytes, body: bytes = BODY, version: bytes = b"1.1") -> bytes:
    return get(b"/generate", b"Content-Type: application/json\r\n" + headers, b"POST", version) + body


KEPT = b"Connection: keep-alive\r\n"

REQUESTS = [
    # Not HTTP/1.1
    b"GET /health\r\n\r\n",
    bytes.fromhex("16030100c8010000c40303") + b"x" * 200,  # the beginning of TLS
    post(LENGTH, version=b"1.0"),
    post(LENGTH, version=b"9.9"),
    b"\r\n\r\n" + get(),
    # Targets and methods
    get(b"http://localhost/health"),
    get(b"http://evil.example/health"),
    get(b"localhost:80", method=b"CONNECT"),
    get(b"*", method=b"OPTIONS"),
    get(method=b"G\xc3\xa9T"),
    get(method=b"A" * 5000),
    get(b"/" + b"a" * 30_000),
    get(b"/\x00"),
    get(b"/%00%ff%fe/../%2e%2e/%zz"),
    get(b"/v1/models/%ff%00%2f%0d%0aX:y"),
    # Headers
    get(headers=b"".join(b"X-%d: y\r\n" % number for number in range(5000))),
    get(headers=b"X-Request-Id: h\xc3\xa9\xff\r\n"),
    get(headers=b"Host: \xff\r\n"),
    get(b"/v1/models", b"Authorization: Bearer \xff\xfe\r\n"),
    get(headers=b"X: a\x00b\r\n"),
    get(headers=b"X: a\r\n b\r\n"),
    get(headers=b"nonsense\r\n"),
    get(headers=b": x\r\n"),
    get(headers=b"Traceparent: \xff-00-zz\r\nX-Forwarded-For: \xff, x\r\nX-Forwarded-Proto: gopher\r\n"),
    get(headers=b"Upgrade: websocket\r\nConnection: Upgrade\r\n"),
    post(LENGTH + b"Upgrade: \xff/1\r\nConnection: Upgrade\r\n"),
    post(LENGTH + b"Expect: everything\r\n"),
    # Bodies
    post(b"", b""),
    post(LENGTH + LENGTH),
    post(LENGTH + b"Content-Length: 5\r\n"),
    post(b"Content-Length: -1\r\n"),
    post(b"Content-Length: 99999999999999999999999999\r\n"),
    post("Content-Length: ١٩\r\n".encode()),
    post(CHUNKED + LENGTH, b"13\r\n" + BODY + b"\r\n0\r\n\r\n"),
    post(CHUNKED + b"Trailer: X\r\n", b"13;a=b\r\n" + BODY + b"\r\n0\r\nX: y\r\n\r\n"),
    post(CHUNKED, b"zz\r\n" + BODY + b"\r\n0\r\n\r\n"),
    post(CHUNKED, b"-1\r\n\r\n"),
    post(LENGTH + b"Content-Encoding: gzip\r\n"),
    get(headers=LENGTH) + BODY,
]


def status_of(connection: Connection, request: bytes) -> int | None:
    """The status of an answer, or None if there is none."""
    with suppress(ConnectionError):
        connection.send(request)
        if line := connection.socket.makefile("rb").readline():
            return int(line.split()[1])
    return None


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("server", SERVERS)
def test_no_request_is_an_error_of_the_servers(name: str, server: str, caplog: pytest.LogCaptureFixture) -> None:
    with on_a_socket(import_module(name).create_app, server=server) as service:
        for request in REQUESTS:
            with Connection(service.port) as connection:
                status = status_of(connection, request)
            assert status is None or status < 500, (request[:100], status)
        with Connection(service.port) as connection:
            connection.send_generate("hello", stream=False)
            assert connection.read_response().json()["text"] == "".join(HELLO)
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("server", ["uvicorn", "uvicorn[standard]", "hypercorn"])
@pytest.mark.parametrize(("headers", "version"), [(CHUNKED + LENGTH, b"1.1"), (CHUNKED + KEPT, b"1.0")])
def test_after_a_body_that_a_proxy_may_read_to_another_end_there_is_no_request(
    name: str, server: str, headers: bytes, version: bytes
) -> None:
    with on_a_socket(import_module(name).create_app, server=server) as service, Connection(service.port) as connection:
        connection.send(post(headers, b"0\r\n\r\n" + get(), version))
        with connection.socket.makefile("rb") as answers:
            received = answers.read()
    assert received.split()[1] == b"400"
    assert received.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("server", ["uvicorn", "uvicorn[standard]"])
@pytest.mark.parametrize("following", [b"nonsense\r\n\r\n", get() + b"nonsense\r\n\r\n"])
def test_nonsense_after_a_request_ends_its_stream_without_an_error(
    name: str, server: str, following: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with on_a_socket(import_module(name).create_app, server=server) as service:
        for _ in range(5):
            with Connection(service.port) as connection:
                connection.send_generate("drip 4000", max_tokens=4000)
                connection.read_head()
                connection.send(following)
                with suppress(ConnectionError), connection.socket.makefile("rb") as answers:
                    answers.read(2000)
        wait_until(lambda: service.engine.counters().running == 0)
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []
