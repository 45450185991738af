"""Over a real uvicorn, clients that vanish, send too slowly, or do not read have their connections closed."""

import contextlib
import json
import time
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from config import Config
from serving import gate
from serving.asgi import Receive, Scope, Send
from serving.connection import Connection as ServerConnection
from serving.connection import IdleConnections
from serving.exchanges import Exchanges
from serving.protocol import SlicedH11
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import JSON, PATIENCE
from tests.support.http_client import Connection
from tests.support.serving import Door, by_hand, kept_busy, on_a_socket, wait_until

PROTOCOLS = ["h11", "httptools", SlicedH11]
both_protocols = pytest.mark.parametrize("http", PROTOCOLS)
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
HANDSHAKE = (
    b"GET /v1/responses HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
STRAY = {"a line end": b"\r\n", "a second request": HEALTH, "many requests": HEALTH * 2000}
HALF = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"


@both_protocols
@pytest.mark.parametrize("stray", STRAY)
@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "not streaming"])
def test_a_client_is_heard_to_leave_whatever_it_sent_after_its_request(
    door: Door, http: Any, stray: str, stream: bool
) -> None:
    with on_a_socket(door, http=http) as service, Connection(service.port) as leaver:
        service.engine.hold()
        leaver.send_generate("count 300", stream, max_tokens=300)
        wait_until(lambda: service.engine.counters().running == 1)
        leaver.send(STRAY[stray])
        time.sleep(0.05)  # so that the server has read it, and pauses
        leaver.socket.close()
        wait_until(lambda: service.engine.aborted == [1], "the abort")


@both_protocols
def test_a_client_that_sent_more_and_stays_gets_both_answers(door: Door, http: Any) -> None:
    with on_a_socket(door, http=http) as service, Connection(service.port) as connection:
        connection.send_generate("hello", stream=False)
        connection.send(HEALTH)
        assert connection.read_response().json()["text"] == "Hello, world!"
        assert connection.read_response().json()["status"] == "ok"


def is_gone(connection: Connection) -> bool:
    """Whether the server has no such connection any more: the kernel answers what is sent to it with a reset."""
    try:
        connection.socket.send(b"x")
    except OSError:
        return True
    return False


@both_protocols
def test_a_client_that_is_cut_off_for_not_reading_loses_its_connection(
    door: Door, http: Any, caplog: pytest.LogCaptureFixture
) -> None:
    config = Config(stall=0.1)
    with on_a_socket(door, config=config, http=http) as service, Connection(service.port, 4096) as stuck:
        stuck.send_generate("flood 1000", max_tokens=1000)
        wait_until(lambda: service.engine.numbers, "the request")
        wait_until(lambda: not service.driver.exchanges.open, "the end of the request")
        wait_until(lambda: is_gone(stuck), "the end of the connection")
        assert not service.driver.exchanges.protocols
    assert [record for record in caplog.records if record.name == "uvicorn.error" and record.levelname == "ERROR"] == []


@both_protocols
@pytest.mark.parametrize("sent", [b"", b"POST /gen", HALF[:-1], HALF], ids=["nothing", "half a line", "a head", "half"])
def test_a_request_that_does_not_come_is_given_up(door: Door, http: Any, sent: bytes) -> None:
    config = Config(head_limit=0.3, body_limit=0.3)
    with on_a_socket(door, config=config, http=http) as service:
        with Connection(service.port) as first:
            first.request("GET", "/health")
            with Connection(service.port) as slow:
                slow.send(sent)
                status, headers = slow.read_head()
                assert (status, headers["connection"]) == (408, "close")
                slow.socket.settimeout(PATIENCE)
                while slow.socket.recv(4096):
                    pass
        wait_until(lambda: not service.driver.exchanges.protocols)


def test_a_body_that_comes_too_slowly_is_given_up(door: Door) -> None:
    with on_a_socket(door, config=Config(body_limit=0.3)) as service, Connection(service.port) as slow:
        slow.send(HALF)
        while not slow.has_more():
            slow.send(b" ")
            time.sleep(0.02)
        answer = slow.read_response()
    assert answer.status == 408
    assert "within 0.3 s" in answer.json()["detail"]


def test_a_request_on_a_connection_beyond_the_limit_is_told_to_come_back(door: Door) -> None:
    with on_a_socket(door, config=Config(max_connections=3)) as service, contextlib.ExitStack() as stack:
        connections = kept_busy(service, stack, 3)
        with Connection(service.port) as another:
            refused = another.request("GET", "/docs")
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert "3 connections" in refused.json()["detail"]
        service.engine.release()
        assert [connection.read_response().status for connection in connections] == [200] * 3


def test_idle_connections_beyond_the_limit_make_room(door: Door) -> None:
    with on_a_socket(door, config=Config(max_connections=3)) as service, contextlib.ExitStack() as stack:
        for _ in range(6):
            connection = stack.enter_context(Connection(service.port))
            connection.send_request("GET", "/health")
        wait_until(lambda: 0 < len(service.driver.exchanges.protocols) <= 3, "room for others")
        wait_until(lambda: not service.driver.exchanges.is_full)


def test_a_websocket_that_is_open_while_connections_are_looked_through_is_closed_and_ends_nothing(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused at once, but connections may be looked through at that very moment."""

    async def wait_for_its_end(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "websocket.disconnect":
            pass

    monkeypatch.setattr(gate, "refuse_websocket", wait_for_its_end)
    with (
        on_a_socket(door, config=Config(head_limit=0.1)) as service,
        Connection(service.port) as connection,
        Connection(service.port) as observer,
    ):
        observer.request("GET", "/health")  # from which on the connections are watched
        connection.send(HANDSHAKE)
        assert connection.read_head()[0] == 408
        assert connection.is_closed()
        assert observer.request("GET", "/health").json()["status"] == "ok"


def test_a_websocket_is_told_to_use_http(door: Door) -> None:
    with on_a_socket(door) as service, Connection(service.port) as connection:
        connection.send(HANDSHAKE)
        assert connection.read_response().status == 426


@both_protocols
def test_what_comes_after_the_handshake_of_a_websocket_is_dropped(
    door: Door, http: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with on_a_socket(door, http=http) as service, Connection(service.port) as connection:
        connection.send(HANDSHAKE + HEALTH * 40)
        with contextlib.suppress(OSError):  # a reset, as not all has been read
            connection.read_head()
        with Connection(service.port) as observer:
            assert observer.request("GET", "/health").json()["status"] == "ok"
    assert [record for record in caplog.records if record.exc_info] == []


class FakeProtocol:
    """An idle connection of uvicorn's, and its own transport."""

    cycle = None

    def __init__(self, protocols: set[Any]) -> None:
        self.protocols, self.transport, self.written = protocols, self, b""
        protocols.add(self)

    def get_protocol(self) -> Any:
        return self

    @property
    def connections(self) -> set[Any]:
        return self.protocols

    def is_closing(self) -> bool:
        return self not in self.protocols

    def write(self, answer: bytes) -> None:
        self.written += answer

    def close(self) -> None:
        self.protocols.remove(self)


class FakeCycle:
    """A request of uvicorn's on such a connection."""

    flow = None

    def __init__(self, transport: FakeProtocol) -> None:
        self.transport = transport

    async def receive(self) -> Any: ...


def test_a_connection_that_was_idle_too_long_makes_room_so_that_no_other_is_closed_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    protocols: set[Any] = set()
    idle = IdleConnections(60)
    FakeProtocol(protocols)
    idle.close_overdue(list(protocols), 2)
    later = time.monotonic() + 61
    monkeypatch.setattr("serving.connection.time.monotonic", lambda: later)
    others = {FakeProtocol(protocols), FakeProtocol(protocols)}
    idle.close_overdue(list(protocols), 2)
    assert protocols == others


@pytest.mark.anyio
async def test_a_connection_with_a_request_now_and_then_stays_open_however_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    protocols: set[Any] = set()
    cycle = FakeCycle(FakeProtocol(protocols))
    exchanges = Exchanges(Config(head_limit=60))
    for seconds in range(0, 300, 50):
        monkeypatch.setattr("serving.connection.time.monotonic", lambda seconds=seconds: seconds)
        exchanges.end(exchanges.begin(cycle.receive))
        exchanges._make_room()
    assert protocols == {cycle.transport}


class FakeHTTP2(FakeProtocol):
    """The same of HTTP/2, with a cycle for each request that is being answered."""

    def __init__(self, protocols: set[Any], requests: int) -> None:
        super().__init__(protocols)
        self.cycles = dict.fromkeys(range(requests))

    def shutdown(self) -> None:
        self.close()


def test_a_connection_of_http2_is_closed_only_without_requests_and_in_its_own_way() -> None:
    protocols: set[Any] = set()
    quiet, busy = FakeHTTP2(protocols, 0), FakeHTTP2(protocols, 2)
    IdleConnections(60).close_overdue(list(protocols), 0)
    assert protocols == {busy}
    assert quiet.written == b"", "this would be HTTP/1.1"


def test_an_answer_over_http2_is_cut_off_alone() -> None:
    """Other requests of the client, or of a proxy's other clients, share its connection."""
    calls: list[str] = []
    transport = SimpleNamespace(abort=lambda: calls.append("the connection"))
    cycle = SimpleNamespace(
        transport=transport, flow=None, disconnected=False, abort_stream=lambda: calls.append("the stream")
    )
    for _ in range(2):
        ServerConnection(cycle).abort()
    assert calls == ["the stream"]


@pytest.mark.anyio
async def test_a_flood_of_connections_is_looked_through_once_and_told_to_come_back() -> None:
    exchanges = Exchanges(Config(max_connections=100, head_limit=60))
    protocols: set[Any] = set()
    exchanges.protocols = protocols
    looks: list[int] = []
    close_overdue = exchanges._idle.close_overdue

    def counted(protocols: Collection[Any], most: int) -> None:
        looks.append(len(protocols))
        close_overdue(protocols, most)

    exchanges._idle.close_overdue = counted  # type: ignore[method-assign]
    every = []
    for _ in range(1000):
        every.append(FakeProtocol(protocols))
        exchanges.on_connection()
    await anyio.lowlevel.checkpoint()
    assert looks == [1000]
    assert len(protocols) == 100
    closed = [protocol.written for protocol in every if protocol.is_closing()]
    assert len(closed) == 900
    assert all(answer.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1\r\n" in answer for answer in closed)
    exchanges.on_connection()
    assert looks == [1000], "there is room"


def test_many_half_sent_requests_leave_room_for_others(door: Door) -> None:
    with on_a_socket(door, config=Config(head_limit=0.5)) as service, contextlib.ExitStack() as stack:
        for _ in range(300):
            half = stack.enter_context(Connection(service.port))
            half.send(b"GET /health HTT")
        connection = stack.enter_context(Connection(service.port))
        assert connection.request("GET", "/health").status == 200
        wait_until(lambda: len(service.driver.exchanges.protocols) == 1, "the end of the half-sent ones")
        assert connection.request("GET", "/health").status == 200


@pytest.mark.anyio
async def test_a_middleware_that_insists_on_an_answer_gets_one_for_a_client_that_left(door: Door) -> None:
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.requests import Request
    from starlette.responses import Response

    async def pass_on(request: Request, call_next: object) -> Response:
        response: Response = await call_next(request)  # type: ignore[operator]
        return response

    async with by_hand(door, ScriptedEngine()) as service:
        service.client.app = BaseHTTPMiddleware(service.app, pass_on)
        service.engine.hold()
        for stream in (True, False):
            async with service.client.open("POST", "/generate", JSON) as exchange:
                exchange.send_body(json.dumps({"prompt": "hello", "stream": stream}).encode()[:10], more_body=True)
                exchange.disconnect()
                await exchange.end()
            async with service.client.open_generate("hello", stream=stream) as exchange:
                exchange.disconnect()
                await exchange.end()


@both_protocols
def test_a_client_that_offers_http2_is_answered_or_told_why_not(door: Door, http: Any) -> None:
    """Java's own client offers h2c with every request, unless it is told to speak HTTP/1.1."""
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2_Settings": "AAEAAEAAAAIAAAAB"}
    with on_a_socket(door, http=http) as service, Connection(service.port) as connection:
        connection.send_request("POST", "/generate", b'{"prompt": "hello"}', Content_Type="application/json", **offer)
        answer = connection.read_response()
    if http == "httptools":
        assert answer.status == 400
        assert "--http h11" in answer.json()["detail"]
    else:
        assert answer.json()["text"] == "Hello, world!"


@both_protocols
def test_only_a_body_that_was_announced_is_read_before_a_connection_is_closed(
    door: Door, http: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[Receive] = []

    async def drop_body(receive: Receive) -> None:
        dropped.append(receive)

    monkeypatch.setattr(gate, "drop_body", drop_body)
    with on_a_socket(door, http=http) as service:
        for fields, times in (b"", 0), (b"Content-Length: 1\r\n", 1):
            with Connection(service.port) as asking:
                asking.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%b\r\n" % fields)
                assert asking.read_response().status == 200
                assert asking.is_closed()
            assert len(dropped) == times
