"""The service over a real server on a socket of this machine, read byte by byte.

Every test runs against both doors, on each server that people have. What only shows here is the framing, when bytes
leave, and how a server tells its application that a client has gone.
"""

import contextlib
import json
import re
import socket
import threading

import pytest

import contract
from backends.stepped import ENCODERS
from config import Config
from study.common.engine import HELLO, ScriptedEngine
from tests.support.asgi_client import events_of
from tests.support.http_client import Connection
from tests.support.servers import SERVERS
from tests.support.serving import DOORS, Door, on_a_socket, wait_until

pytestmark = pytest.mark.parametrize(
    ("door", "server"),
    [
        *[pytest.param((door, "with transcript"), "uvicorn", id=f"{door}-with transcript") for door in DOORS],
        *[pytest.param((door, "alone"), server, id=f"{door}-{server}") for door in DOORS for server in SERVERS],
    ],
    indirect=["door"],
)


def test_each_event_of_a_stream_is_one_chunk(door: Door, server: str) -> None:
    with on_a_socket(door, server=server) as service, Connection(service.port) as connection:
        connection.send_generate("hello")
        status, headers = connection.read_head()
        chunks = list(connection.chunks())
    assert status == 200
    assert headers["transfer-encoding"] == "chunked"
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache, no-transform"
    assert headers["x-accel-buffering"] == "no"
    assert "content-length" not in headers
    assert len(chunks) == len(HELLO) + 2
    assert all(chunk.startswith(b"data: ") and chunk.endswith(b"\n\n") for chunk in chunks)
    assert [event.get("token") for event in events_of(b"".join(chunks))] == [*HELLO, None]


def test_the_headers_of_a_stream_come_before_its_first_token(door: Door, server: str) -> None:
    with on_a_socket(door, server=server) as service, Connection(service.port) as connection:
        service.engine.hold()
        connection.send_generate("hello")
        assert connection.read_head()[0] == 200
        assert not connection.has_more()
        assert service.engine.generated_tokens == 0


def test_events_come_one_by_one(door: Door, server: str) -> None:
    with on_a_socket(door, server=server) as service, Connection(service.port) as connection:
        service.engine.hold()
        connection.send_generate("hello")
        connection.read_head()
        for made, text in enumerate(HELLO, start=1):
            service.engine.release(1)
            assert connection.read_event()["token"] == text
            assert service.engine.generated_tokens == made
            assert made == len(HELLO) or not connection.has_more()
        assert connection.read_event()["finish_reason"] == "stop"
        assert connection.read_chunk() == b"data: [DONE]\n\n"
        assert connection.read_chunk() == b""


def test_comments_come_while_the_engine_is_silent(door: Door, server: str) -> None:
    with (
        on_a_socket(door, config=Config(heartbeat=0.02), server=server) as service,
        Connection(service.port) as connection,
    ):
        service.engine.hold()
        connection.send_generate("hello")
        connection.read_head()
        assert [connection.read_chunk() for _ in range(3)] == [b": heartbeat\n"] * 3


def test_a_connection_serves_one_request_after_the_other(door: Door, server: str) -> None:
    with on_a_socket(door, server=server) as service, Connection(service.port) as connection:
        for _ in range(2):
            assert connection.request("GET", "/health").json()["status"] == "ok"
            connection.send_generate("hello")
            assert len(events_of(connection.read_response().body)) == len(HELLO) + 1
            connection.send_generate("hello", stream=False)
            assert connection.read_response().json()["text"] == "".join(HELLO)
            head = connection.request("HEAD", "/docs")
            assert (head.status, head.body) == (200, b"")
            assert int(head.headers["content-length"]) > 0
            assert connection.request("GET", "/nothing").status == 404
            assert connection.request("PUT", "/generate", b"").headers["allow"] == "POST"
            assert connection.request("POST", "/generate", b"x", Content_Type="text/plain").status == 415
            assert connection.request("POST", "/generate", b"x", Content_Type="application/json").status == 422


def test_a_request_may_come_in_chunks_and_byte_by_byte(door: Door, server: str) -> None:
    body = json.dumps({"prompt": "hello"}).encode()
    with on_a_socket(door, server=server) as service, Connection(service.port) as connection:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.send(
            b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for byte in body:
            connection.send(b"1\r\n" + bytes([byte]) + b"\r\n")
        connection.send(b"0\r\n\r\n")
        assert connection.read_response().json()["text"] == "".join(HELLO)


def test_a_body_over_the_limit_is_413_before_all_of_it_has_come(door: Door, server: str) -> None:
    with on_a_socket(door, server=server) as service, Connection(service.port) as connection:
        connection.send_request(
            "POST",
            "/generate",
            b" " * (contract.MAX_BODY_BYTES + 1),
            Content_Type="application/json",
            Content_Length=str(2**40),
        )
        response = connection.read_response()
        assert response.status == 413
        assert response.json()["detail"]
        assert service.engine.prompts == []


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_client_that_sends_all_before_it_reads_gets_its_413(door: Door, server: str, framing: str) -> None:
    """As Node's fetch and Python's http.client do: a connection that was reset would lose them the answer."""
    size = contract.MAX_BODY_BYTES + 1
    with on_a_socket(door, server=server) as service, Connection(service.port) as connection:
        if framing == "length":
            connection.send_request("POST", "/generate", b" " * size, Content_Type="application/json")
        else:
            head = {"Content_Type": "application/json", "Transfer_Encoding": "chunked"}
            connection.send_request("POST", "/generate", None, **head)
            connection.send(b"%x\r\n%b\r\n0\r\n\r\n" % (size, b" " * size))
        assert connection.read_response().status == 413


def test_a_client_that_sends_all_and_ends_the_connection_gets_its_404(door: Door, server: str) -> None:
    with on_a_socket(door, server=server) as service, Connection(service.port) as connection:
        connection.send_request("POST", "/nowhere", b" " * 8 * contract.MAX_TEXT_BYTES, Connection="close")
        assert connection.read_response().status == 404


def test_the_request_id_is_the_clients_own(door: Door, server: str) -> None:
    with on_a_socket(door, server=server) as service, Connection(service.port) as connection:
        assert connection.request("GET", "/health", X_Request_ID="mine-1").headers["x-request-id"] == "mine-1"
        connection.send_request(
            "POST",
            "/generate",
            b'{"prompt": "hello", "stream": true}',
            Content_Type="application/json",
            X_Request_Id="mine-2",
        )
        assert connection.read_response().headers["x-request-id"] == "mine-2"


def test_a_prefix_that_a_proxy_has_taken_off_is_no_obstacle(door: Door, server: str) -> None:
    with on_a_socket(door, root_path="/api", server=server) as service, Connection(service.port) as connection:
        for path in (*contract.REPORTS, *contract.PAGES):
            answer = connection.request("GET", path)
            assert answer.status == 200, path
            assert not re.search(rb"""(?:href|src|fetch\(|import\(|from )=?["'`]/""", answer.body), path
        assert connection.request("GET", "/openapi.json").json()["servers"] == [{"url": "/api"}]
        connection.send_generate("hello", stream=False)
        assert connection.read_response().status == 200


WAYS_TO_LEAVE = {
    "closes": lambda connection: connection.socket.close(),
    "resets": lambda connection: connection.reset(),
    "closes its sending side": lambda connection: connection.socket.shutdown(socket.SHUT_WR),
}


@pytest.mark.parametrize("way", WAYS_TO_LEAVE)
@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "not streaming"])
@pytest.mark.parametrize("phase", ["queue", "prefill", "decode"])
def test_a_client_that_leaves_stops_its_request_and_no_other(
    door: Door, server: str, phase: str, stream: bool, way: str
) -> None:
    slots = 1 if phase == "queue" else 2
    with (
        on_a_socket(door, ScriptedEngine(slots=slots), server=server) as service,
        Connection(service.port) as neighbour,
        Connection(service.port) as leaver,
        Connection(service.port) as observer,
    ):
        service.engine.hold()
        neighbour.send_generate("hello")
        wait_until(lambda: service.engine.counters().running == 1)
        leaver.send_generate("count 300", stream, max_tokens=300)
        wait_until(lambda: sum((service.engine.counters().running, service.engine.counters().waiting)) == 2)
        made = 0
        if phase == "decode":
            service.engine.release(1)
            wait_until(lambda: service.engine.generated_tokens == 2)
            made = 1
            if stream:
                leaver.read_head()
                assert leaver.read_event()["token"] == "0 "
        WAYS_TO_LEAVE[way](leaver)
        wait_until(lambda: service.engine.aborted == [2], "the abort")
        service.engine.release()
        assert [event.get("token") for event in events_of(neighbour.read_response().body)] == [*HELLO, None]
        health = observer.request("GET", "/health").json()
        assert (health["running"], health["waiting"]) == (0, 0)
        assert health["generated_tokens"] == len(HELLO) + made


def test_a_client_that_leaves_while_it_sends_its_body_disturbs_no_other(door: Door, server: str) -> None:
    with on_a_socket(door, server=server) as service:
        with Connection(service.port) as leaver:
            leaver.send(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
            leaver.send(b'Content-Length: 100\r\n\r\n{"prompt": ')
        with Connection(service.port) as connection:
            connection.send_generate("hello", stream=False)
            assert connection.read_response().status == 200
            assert service.engine.prompts == ["hello"]


def test_a_client_that_never_reads_is_cut_off(door: Door, server: str) -> None:
    with (
        on_a_socket(door, config=Config(stall=1.0), server=server) as service,
        Connection(service.port, receive_buffer=4096) as stuck,
        Connection(service.port) as reader,
    ):
        service.engine.hold()
        stuck.send_generate("flood 4000", max_tokens=4000)  # 256 MiB
        wait_until(lambda: service.engine.counters().running == 1)
        reader.send_generate("count 300", max_tokens=300)
        wait_until(lambda: service.engine.counters().running == 2)
        service.engine.release(200)
        wait_until(lambda: service.engine.aborted == [1], "the abort")
        service.engine.release()
        assert len(events_of(reader.read_response().body)) == 301


def test_health_is_answered_while_a_step_takes_long(door: Door, server: str) -> None:
    with (
        on_a_socket(door, server=server) as service,
        Connection(service.port) as connection,
        Connection(service.port) as observer,
    ):
        service.engine.hold()
        connection.send_generate("hello", stream=False)
        wait_until(lambda: service.engine.counters().running == 1)
        for _ in range(10):
            assert observer.request("GET", "/health").json()["running"] == 1
        assert service.engine.steps == 0


def test_sixty_clients_stream_at_once_without_a_thread_for_each(door: Door, server: str) -> None:
    with on_a_socket(door, ScriptedEngine(slots=64), server=server) as service, contextlib.ExitStack() as stack:
        service.engine.hold()
        threads_before = threading.active_count()
        connections = [stack.enter_context(Connection(service.port)) for _ in range(60)]
        for connection in connections:
            connection.send_generate("count 20")
        for connection in connections:
            assert connection.read_head()[0] == 200
        wait_until(lambda: service.engine.counters().running == 60)
        wait_until(lambda: threading.active_count() <= threads_before + 1 + ENCODERS, "the end of the others")
        service.engine.release()
        for connection in connections:
            *tokens, done = list(connection.chunks())
            assert len(tokens) == 21
            assert done == b"data: [DONE]\n\n"


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "not streaming"])
def test_when_an_engine_dies_all_its_streams_get_an_error_and_the_server_goes_on(
    door: Door, server: str, stream: bool
) -> None:
    with (
        on_a_socket(door, server=server) as service,
        Connection(service.port) as culprit,
        Connection(service.port) as bystander,
    ):
        service.engine.hold()
        bystander.send_generate("count 300", stream, max_tokens=300)
        wait_until(lambda: service.engine.counters().running == 1)
        culprit.send_generate("explode", stream)
        wait_until(lambda: service.engine.counters().running == 2)
        service.engine.release()
        for connection in (culprit, bystander):
            response = connection.read_response()
            if stream:
                assert response.status == 200
                assert events_of(response.body)[-1]["error"]["type"] == "engine_error"
            else:
                assert response.status == 500
        wait_until(lambda: service.driver.status != "ok")
        health = culprit.request("GET", "/health")
        assert (health.status, health.json()["status"]) == (503, "engine failed: RuntimeError: the script says so")
