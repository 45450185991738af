"""What WSGI lacks, shown on a socket, each next to what ASGI does there.

    the claim                                          WSGI                           ASGI
    the headers leave                                  with the first block           at once
    a client that leaves before the first token        is noticed when a write fails  stops its request at once
    a client that leaves in the middle of a stream     is noticed when a write fails  stops its request at once
    a client that leaves an unstreamed answer          is never noticed               stops its request at once
    a client that stops sending, but reads on          is served                      counts as gone
    another request during a stream                    waits for a free worker        is answered
    a stream that the server's end cuts off            is not told                    gets an error event
    the engine starts                                  with the first request         with the server
    a body without a length                            is up to the server            is read
    keys, hosts, origins and quotas                    are not checked                are checked

What ASGI does at the server's end and with bodies in pieces is in the doors' own suite.
"""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from wsgiref.simple_server import WSGIServer, make_server

import pytest

import raw_asgi
import raw_wsgi
from config import Config
from serving.sync_driver import Driver
from serving.wsgi_server import ThreadingWSGIServer
from study.common.engine import ScriptedEngine
from study.common.http_servers import QuietHandler, serving_wsgi
from study.common.launcher import Process, running
from tests.support.asgi_client import PATIENCE, Response, events_of
from tests.support.http_client import Connection
from tests.support.serving import in_a_process, on_a_socket, wait_until


@contextmanager
def on_wsgiref(engine: ScriptedEngine, server_class: type[WSGIServer] = WSGIServer) -> Iterator[int]:
    """Serve the WSGI door with the standard library's server, in a thread; the port."""
    driver = Driver(Config(), lambda config: engine)
    driver.start()
    wait_until(lambda: driver.status == "ok", "the engine's start")
    with serving_wsgi(raw_wsgi.create_app(driver), server_class) as port:
        try:
            yield port
        finally:
            engine.release()  # a step that is held would hold up the end


@contextmanager
def on_gunicorn(*arguments: str, seconds_per_step: float = 0) -> Iterator[tuple[Process, int]]:
    """Serve the WSGI door with a real gunicorn in a process of its own; the process and its port."""
    command = ["-m", "gunicorn", "--bind", "127.0.0.1:0", "--no-control-socket", *arguments]
    app = f"tests.support.wsgi_client:scripted_wsgi_app({seconds_per_step})"
    with running([*command, app]) as process:  # it is told to end, and not killed: its workers must end too
        wait_until(lambda: ask(process.port, "/health").status == 200, "the engine's start")
        yield process, process.port


def ask(port: int, path: str, prompt: str | None = None) -> Response:
    """The whole answer, from a server of either version of HTTP."""
    method, body, headers = "GET", None, {}
    if prompt is not None:
        method, body, headers = "POST", json.dumps({"prompt": prompt}), {"Content-Type": "application/json"}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return Response(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())


def opened(port: int, stream: bool = True) -> Connection:
    """A connection that has asked for 300 tokens."""
    connection = Connection(port)
    connection.send_generate("count 300", stream, max_tokens=300)
    return connection


def read_tokens(connection: Connection, count: int) -> bytes:
    """What has come when `count` tokens have, however it is framed."""
    data = b""
    while data.count(b'"token"') < count:
        data += connection.socket.recv(65536)
    return data


def read_to_the_end(connection: Connection) -> bytes:
    data = b""
    while piece := connection.socket.recv(65536):
        data += piece
    return data


@pytest.fixture
def held() -> ScriptedEngine:
    """An engine that makes no token until a test lets it."""
    engine = ScriptedEngine()
    engine.hold()
    return engine


# --- Headers ----------------------------------------------------------------------------------------------------------


def test_wsgi_headers_wait_for_the_first_token(held: ScriptedEngine) -> None:
    with on_wsgiref(held) as port, opened(port) as connection:
        wait_until(lambda: held.counters().running == 1)
        assert not connection.has_more()
        held.release(1)
        assert read_tokens(connection, 1).startswith(b"HTTP/1.0 200 OK\r\n")


def test_asgi_headers_do_not_wait_for_the_first_token(held: ScriptedEngine) -> None:
    with on_a_socket(raw_asgi.create_app, held) as service, opened(service.port) as connection:
        assert connection.read_head()[0] == 200
        assert held.generated_tokens == 0


# --- A client that leaves ---------------------------------------------------------------------------------------------


def tokens_made_after_leaving(engine: ScriptedEngine) -> int:
    """Let tokens be made one by one until the request has ended; how many it took."""
    before = engine.generated_tokens
    while engine.counters().running and engine.generated_tokens < 300:
        made = engine.generated_tokens
        engine.release(1)
        wait_until(lambda made=made: engine.generated_tokens > made or not engine.counters().running)  # type: ignore[misc]
    return engine.generated_tokens - before


def test_wsgi_finds_out_by_a_failed_write_that_a_client_left_in_a_stream(held: ScriptedEngine) -> None:
    with on_wsgiref(held) as port:
        with opened(port) as connection:
            held.release(5)
            read_tokens(connection, 5)
        assert 1 <= tokens_made_after_leaving(held) <= 20
        wait_until(lambda: held.aborted == [1])


def test_wsgi_makes_the_first_token_for_a_client_that_left_before_it(held: ScriptedEngine) -> None:
    with on_wsgiref(held) as port:
        with opened(port):
            wait_until(lambda: held.counters().running == 1)
        assert 1 <= tokens_made_after_leaving(held) <= 20
        wait_until(lambda: held.aborted == [1])


def test_wsgi_makes_all_the_tokens_for_a_client_that_left_an_unstreamed_answer(held: ScriptedEngine) -> None:
    with on_wsgiref(held) as port:
        with opened(port, stream=False):
            wait_until(lambda: held.counters().running == 1)
        assert tokens_made_after_leaving(held) == 300
        assert held.aborted == []


@pytest.mark.parametrize(
    ("tokens", "stream"), [(5, True), (0, True), (0, False)], ids=["5 tokens", "none", "unstreamed"]
)
def test_asgi_learns_of_a_leaving_client_by_receive_and_makes_no_more_tokens(
    held: ScriptedEngine, tokens: int, stream: bool
) -> None:
    with on_a_socket(raw_asgi.create_app, held) as service:
        with opened(service.port, stream) as connection:
            held.release(tokens)
            read_tokens(connection, tokens)
            wait_until(lambda: held.counters().running == 1)
        wait_until(lambda: held.aborted == [1])
        assert held.generated_tokens == tokens


# --- A worker held ----------------------------------------------------------------------------------------------------


def test_one_wsgi_worker_answers_nothing_else_while_it_streams(held: ScriptedEngine) -> None:
    with on_wsgiref(held) as port, opened(port) as stream:
        wait_until(lambda: held.counters().running == 1)
        with Connection(port) as other:
            other.send_request("GET", "/health")
            held.release(5)
            read_tokens(stream, 5)
            assert not other.has_more()
            held.release()
            assert other.socket.recv(9) == b"HTTP/1.0 "


def test_wsgi_with_a_thread_per_request_does(held: ScriptedEngine) -> None:
    with on_wsgiref(held, ThreadingWSGIServer) as port, opened(port):
        wait_until(lambda: held.counters().running == 1)
        assert ask(port, "/health").status == 200


def test_asgi_does_with_one_thread(held: ScriptedEngine) -> None:
    with on_a_socket(raw_asgi.create_app, held) as service, opened(service.port):
        wait_until(lambda: held.counters().running == 1)
        assert ask(service.port, "/health").status == 200


# --- The rest ---------------------------------------------------------------------------------------------------------


def test_the_wsgi_engine_starts_with_the_first_request() -> None:
    """There is no lifespan; importing the application is too early, for a server may fork after it."""
    loaded = threading.Event()

    def load(config: Config) -> ScriptedEngine:
        loaded.set()
        return ScriptedEngine()

    driver = Driver(Config(), load)
    with make_server("127.0.0.1", 0, raw_wsgi.create_app(driver), WSGIServer, QuietHandler) as server:
        assert not loaded.is_set()
        with Connection(server.server_port) as connection:
            connection.send_request("GET", "/health")
            server.handle_request()
            assert loaded.wait(PATIENCE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("api_keys", ("k",)),
        ("hosts", ("models.example",)),
        ("allow_origins", ("*",)),
        ("client_requests", 1),
        ("client_tokens", 1),
    ],
)
def test_a_setting_of_the_layers_that_only_asgi_doors_have_is_refused(name: str, value: Any) -> None:
    driver = Driver(Config(**{name: value}))
    driver.start()
    wait_until(lambda: driver.vitals().has_failed, "the refusal")
    assert f"Expected no ENGINE_{name.upper()}" in driver.vitals().status


def test_a_chunked_body_is_refused_on_a_wsgi_server_that_does_not_mark_its_end(held: ScriptedEngine) -> None:
    with on_wsgiref(held) as port, Connection(port) as connection:
        send_chunked(connection, b'{"prompt": "hello"}')
        assert connection.socket.recv(65536).startswith(b"HTTP/1.0 411 ")
        assert held.prompts == []


def send_chunked(connection: Connection, body: bytes) -> None:
    head = "POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.send(head.encode() + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))


@pytest.mark.parametrize("workers", [("--workers", "1"), ("--threads", "4")], ids=["sync", "threads"])
def test_under_gunicorn_each_event_is_a_chunk_of_its_own_and_a_chunked_body_is_read(workers: tuple[str, ...]) -> None:
    with on_gunicorn(*workers) as (_, port):
        with Connection(port) as connection:
            connection.send_generate("hello")
            status, headers = connection.read_head()
            assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
            chunks = list(connection.chunks())
            assert [chunk.count(b"\n\n") for chunk in chunks] == [1] * 6
            assert [event.get("token") for event in events_of(b"".join(chunks))] == ["Hello", ",", " world", "!", None]
        with Connection(port) as connection:
            send_chunked(connection, b'{"prompt": "hello"}')
            assert connection.read_response().json()["text"] == "Hello, world!"
        with Connection(port) as connection:
            assert connection.request("HEAD", "/health").body == b""


def test_python_raw_wsgi_serves_and_says_that_it_is_loading() -> None:
    with in_a_process(["raw_wsgi.py", "--port", "0"]) as process:
        health = ask(process.port, "/health")
        assert (health.status, health.json()["status"]) == (503, "loading")
        refused = ask(process.port, "/generate", "hello")
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")


def test_a_client_that_only_stops_sending_is_served_by_wsgi_and_gone_for_uvicorn(held: ScriptedEngine) -> None:
    with on_wsgiref(held) as port, opened(port) as connection:
        connection.socket.shutdown(socket.SHUT_WR)
        held.release()
        assert b"[DONE]" in read_to_the_end(connection)
    held.hold()
    with on_a_socket(raw_asgi.create_app, held) as service, opened(service.port) as connection:
        wait_until(lambda: held.counters().running == 1)
        connection.socket.shutdown(socket.SHUT_WR)
        wait_until(lambda: held.aborted == [2])


def test_a_wsgi_stream_is_cut_off_without_a_word_when_its_server_ends() -> None:
    """A worker is given its time to finish and then killed; the application hears of neither."""
    with (
        on_gunicorn("--graceful-timeout", "1", seconds_per_step=0.1) as (process, port),
        opened(port) as connection,
    ):
        read_tokens(connection, 1)
        process.popen.terminate()
        rest = read_to_the_end(connection)
    assert b"error" not in rest
    assert b"[DONE]" not in rest


def test_a_port_that_is_taken_ends_it_with_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with in_a_process(["raw_wsgi.py", "--port", port]) as process:
            assert process.wait() == 1
            assert process.log == f"error: cannot listen on 127.0.0.1:{port}: Address already in use\n"
