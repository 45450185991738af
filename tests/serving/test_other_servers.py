"""On hypercorn and granian the application sees bodies and answers, but no connections: what clients get there.

docs/operations.md has the table. tests/doors/test_doors_over_a_socket.py runs on every server.
"""

import contextlib
import time

import pytest

from config import Config
from tests.support.http_client import Connection
from tests.support.serving import Door, kept_busy, on_a_socket, wait_until

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
HALF = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
pytestmark = pytest.mark.parametrize("server", ["hypercorn", "granian"])


def test_a_client_that_sent_more_and_stays_gets_both_answers(door: Door, server: str) -> None:
    with on_a_socket(door, server=server) as service, Connection(service.port) as connection:
        connection.send_generate("hello", stream=False)
        connection.send(HEALTH)
        assert connection.read_response().json()["text"] == "Hello, world!"
        assert connection.read_response().json()["status"] == "ok"


def test_a_client_that_sent_more_is_heard_to_leave_its_stream_at_the_next_events(door: Door, server: str) -> None:
    """Both servers stop to read from a connection once more has come, and so learn of its end when they write."""
    with on_a_socket(door, server=server) as service, Connection(service.port) as leaver:
        leaver.send_generate("drip 4000", max_tokens=4000)
        leaver.read_head()
        leaver.read_event()
        leaver.send(HEALTH)
        leaver.reset()
        wait_until(lambda: service.engine.aborted == [1], "the abort")
        assert service.engine.generated_tokens < 4000


@pytest.mark.parametrize("sent", [HALF[:-1], HALF], ids=["a head", "half"])
def test_a_body_that_does_not_come_is_given_up(door: Door, server: str, sent: bytes) -> None:
    with on_a_socket(door, config=Config(body_limit=0.3), server=server) as service, Connection(service.port) as slow:
        slow.send(sent)
        assert slow.read_response().status == 408


def test_a_body_that_comes_too_slowly_is_given_up(door: Door, server: str) -> None:
    with on_a_socket(door, config=Config(body_limit=0.3), server=server) as service, Connection(service.port) as slow:
        slow.send(HALF)
        while not slow.has_more():
            slow.send(b" ")
            time.sleep(0.02)
        assert slow.read_response().status == 408


def test_half_a_head_is_waited_for(door: Door, server: str) -> None:
    """Only a limit of the server's own, or a proxy's, would end this."""
    with on_a_socket(door, config=Config(head_limit=0.05), server=server) as service, Connection(service.port) as slow:
        slow.send(HEALTH[:20])
        time.sleep(0.3)
        slow.send(HEALTH[20:])
        assert slow.read_response().status == 200


def test_requests_beyond_the_limit_of_connections_are_told_to_come_back(door: Door, server: str) -> None:
    config = Config(max_connections=3)
    with on_a_socket(door, config=config, server=server) as service, contextlib.ExitStack() as stack:
        connections = kept_busy(service, stack, 3)
        with Connection(service.port) as another:
            refused = another.request("GET", "/docs")
        assert (refused.status, "retry-after" in refused.headers) == (503, True)
        service.engine.release()
        assert [connection.read_response().status for connection in connections] == [200] * 3


def test_a_client_that_offers_http2_is_answered(door: Door, server: str) -> None:
    """Java's own client does so with every request."""
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2_Settings": "AAEAAEAAAAIAAAAB"}
    with on_a_socket(door, server=server) as service, Connection(service.port) as connection:
        connection.send_request("POST", "/generate", b'{"prompt": "hello"}', Content_Type="application/json", **offer)
        assert connection.read_response().json()["text"] == "Hello, world!"
