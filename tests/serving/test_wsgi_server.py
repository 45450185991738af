"""The standard library's WSGI server, with threads and without: no client's silence may hold up the next, and each of a
crowd gets an answer.
"""

import errno
import io
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from wsgiref.simple_server import WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

import contract
from config import Config
from serving import log_stream, wsgi_server
from serving.wsgi_server import OneByOneWSGIServer, handler_of, server_class
from tests.support.threads import refuse_threads

SHORT, PATIENCE = 0.3, 30.0


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] != "/unread":
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    if environ["PATH_INFO"] == "/faulty":
        environ["wsgi.errors"].write("Traceback: none\n")
    start_response("200 OK", [("content-type", "text/plain")])
    return (b"x" * 65536 for _ in range(2000 if environ["PATH_INFO"] == "/endless" else 1))


@contextmanager
def listening(threads: bool = False, **limits: float) -> Iterator[WSGIServer]:
    """A server with these limits, and the others long, that accepts nothing yet."""
    config = Config(**({"head_limit": PATIENCE, "body_limit": PATIENCE, "stall": PATIENCE} | limits))  # type: ignore[arg-type]
    kind = server_class(config, "127.0.0.1", threads)
    with make_server("127.0.0.1", 0, app, kind, handler_of(config)) as server:
        yield server


@contextmanager
def accepting(server: WSGIServer) -> Iterator[int]:
    """Run a server in a thread; its port."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()


@contextmanager
def served(threads: bool = False, **limits: float) -> Iterator[int]:
    with listening(threads, **limits) as server, accepting(server) as port:
        yield port


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
    with served(False, **{limit: SHORT}) as port, socket.create_connection(("127.0.0.1", port), PATIENCE) as silent:
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


def test_a_client_that_sends_all_before_it_reads_gets_the_answer_to_a_body_that_was_not_read(capsys: Any) -> None:
    size = 8 * contract.MAX_BODY_BYTES
    with served() as port, socket.create_connection(("127.0.0.1", port), PATIENCE) as sending:
        sending.sendall(b"POST /unread HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size)
        sending.sendall(b" " * size)
        with sending.makefile("rb") as answer:
            assert answer.read().startswith(b"HTTP/1.0 200 OK\r\n")
    assert "Traceback" not in capsys.readouterr().err


def test_a_client_that_goes_on_sending_after_its_answer_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wsgi_server, "LINGER", 10 * PATIENCE)
    monkeypatch.setattr(wsgi_server, "PAUSE", PATIENCE)
    with served() as port, socket.create_connection(("127.0.0.1", port), PATIENCE) as sending:
        sending.sendall(b"POST /unread HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (2 * contract.MAX_BODY_BYTES))
        with sending.makefile("rb") as answer:
            assert answer.read().startswith(b"HTTP/1.0 200 OK\r\n")
        is_over = threading.Event()
        trickling = threading.Thread(target=trickle, args=(sending, is_over))
        trickling.start()
        try:
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as other:
                other.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert other.makefile("rb").readline() == b"HTTP/1.0 200 OK\r\n"
        finally:
            is_over.set()
            trickling.join()


def trickle(sending: socket.socket, is_over: threading.Event) -> None:
    while not is_over.wait(0.05):
        sending.sendall(b"x")


class OnFullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_connections_linger_again_after_the_process_had_no_files_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wsgi_server, "MOST_LINGERING", 1)
    monkeypatch.setattr(wsgi_server, "PAUSE", PATIENCE)
    server_end, client_end = socket.socketpair()
    with listening() as server, server_end, client_end:
        assert isinstance(server, OneByOneWSGIServer)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket.socket, "dup", raise_no_files_left)
            with pytest.raises(OSError, match="Too many open files"):
                server.linger(server_end)
        server.linger(server_end)
        server_end.close()
        client_end.settimeout(PATIENCE)
        client_end.sendall(b"late")  # an error if no thread has kept the connection open
        client_end.shutdown(socket.SHUT_WR)
        assert client_end.recv(1) == b""


def raise_no_files_left(*_: Any) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def reply(port: int, path: bytes = b"/") -> bytes:
    """The first line of an answer that comes whole."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as one:
        one.sendall(b"GET %b HTTP/1.1\r\n\r\n" % path)
        with one.makefile("rb") as answer:
            first = answer.readline()
            answer.read()
            return first


def test_a_request_is_answered_though_nothing_takes_its_line_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    with served() as port, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", OnFullDisk())
        assert reply(port) == b"HTTP/1.0 200 OK\r\n"


def test_no_request_waits_for_a_reader_of_what_it_logs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(log_stream, "PATIENCE_MS", 1)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with os.fdopen(reader), os.fdopen(writer, "w") as stderr, served() as port:
        with suppress(BlockingIOError):
            while os.write(writer, bytes(4096)):
                pass
        os.set_blocking(writer, True)
        monkeypatch.setattr(sys, "stderr", stderr)
        with caplog.at_level(logging.INFO, "engine"):
            for path in (b"/", b"/faulty", b"/\x1b[31m\xe9"):
                assert reply(port, path) == b"HTTP/1.0 200 OK\r\n"
    lines = [record.getMessage() for record in caplog.records]
    assert [line.rpartition(" 200 ")[0] for line in lines] == [
        '127.0.0.1 - "GET / HTTP/1.1"',
        '127.0.0.1 - "GET /faulty HTTP/1.1"',
        r'127.0.0.1 - "GET /\x1b[31m\xe9 HTTP/1.1"',
    ]


CROWD = 200


@pytest.mark.parametrize("threads", [False, True])
def test_each_of_a_crowd_that_comes_at_once_gets_its_answer(threads: bool, capsys: Any) -> None:
    """The kernel drops connections that it has no room for; their clients' kernels try again ever more seldom."""
    with listening(threads) as server, ExitStack() as stack:
        address = ("127.0.0.1", server.server_port)
        crowd = [stack.enter_context(socket.create_connection(address, PATIENCE)) for _ in range(CROWD)]
        with accepting(server):
            for one in crowd:
                one.sendall(b"GET / HTTP/1.1\r\n\r\n")
                with one.makefile("rb") as answer:
                    assert answer.readline() == b"HTTP/1.0 200 OK\r\n"
    assert "Traceback" not in capsys.readouterr().err


def answer_to_one_more(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as one_more:
        one_more.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with one_more.makefile("rb") as answer:
            return answer.read()


def test_with_threads_one_connection_more_than_allowed_is_refused_at_once() -> None:
    with served(threads=True, max_connections=2) as port, ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE)) for _ in range(2)]
        refusal = answer_to_one_more(port)
        assert refusal.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nretry-after: 1\r\n" in refusal
        assert b"ENGINE_MAX_CONNECTIONS" in refusal.partition(b"\r\n\r\n")[2]
        for one in held:
            one.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with one.makefile("rb") as answer:
                assert answer.readline() == b"HTTP/1.0 200 OK\r\n"
                answer.read()


def test_a_request_that_the_system_has_no_thread_for_is_refused_and_the_next_is_served(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with served(threads=True, max_connections=1) as port:
        with monkeypatch.context() as patch:
            refuse_threads(patch)
            assert answer_to_one_more(port).startswith(b"HTTP/1.1 503 ")
        assert answer_to_one_more(port).startswith(b"HTTP/1.0 200 ")
    assert "Traceback" not in capsys.readouterr().err
