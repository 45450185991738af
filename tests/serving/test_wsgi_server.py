"""The standard library's WSGI server answers one request at a time, so no client's silence may hold up the next."""

import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import make_server
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from config import Config
from serving.wsgi_server import handler_of

SHORT, PATIENCE = 0.3, 30.0


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [("content-type", "text/plain")])
    return (b"x" * 65536 for _ in range(2000 if environ["PATH_INFO"] == "/endless" else 1))


@contextmanager
def served(**limits: float) -> Iterator[int]:
    """A server with these limits, and the others long; its port."""
    config = Config(**({"head_limit": PATIENCE, "body_limit": PATIENCE, "stall": PATIENCE} | limits))  # type: ignore[arg-type]
    with make_server("127.0.0.1", 0, app, handler_class=handler_of(config)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("limit", "sent"),
    [
        ("head_limit", b""),
        ("head_limit", b"POST / HT"),
        ("head_limit", b"POST / HTTP/1.1\r\nContent-Le"),
        ("body_limit", b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf"),
        ("stall", b"GET /endless HTTP/1.1\r\n\r\n"),
    ],
)
def test_a_client_that_falls_silent_holds_up_no_other(limit: str, sent: bytes, capsys: Any) -> None:
    with served(**{limit: SHORT}) as port, socket.create_connection(("127.0.0.1", port), PATIENCE) as silent:
        silent.sendall(sent)
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as other:
            other.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert other.makefile("rb").readline() == b"HTTP/1.0 200 OK\r\n"
    if limit != "body_limit":  # what an application makes of a body that does not come is its own business
        assert "Traceback" not in capsys.readouterr().err


def test_a_client_that_resets_its_connection_is_no_news(capsys: Any) -> None:
    with served() as port:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as leaving:
            leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as other:
            other.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert other.makefile("rb").readline() == b"HTTP/1.0 200 OK\r\n"
    assert "Traceback" not in capsys.readouterr().err
