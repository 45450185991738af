"""The WSGI transcript: what it records, and that the door answers as it does without it."""

import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from config import Config
from serving.transcript.wsgi import Transcript, with_transcript
from tests.support.serving import wait_until
from tests.support.wsgi_client import WsgiExchange, WsgiService, pulled_by_hand, wsgi_app

HELLO = json.dumps({"prompt": "hello", "stream": True}).encode()
ASKED = {"content-type": "application/json", "x-request-id": "abc"}


@pytest.fixture
def service() -> Iterator[WsgiService]:
    with pulled_by_hand(config=Config(transcript=True)) as service:
        yield service


def saved(service: WsgiService) -> Any:
    response = service.request("GET", "/transcript/abc.json")
    assert response.status == 200
    return response.json()


def test_what_pep_3333_has_is_written_down_in_its_order(service: WsgiService) -> None:
    blocks = service.request("POST", "/generate", HELLO, ASKED).body.split(b"\n\n")[:-1]
    notes = saved(service)["messages"]
    assert [(note["direction"], note["type"]) for note in notes] == [
        ("scope", "environ"),
        ("receive", "wsgi.input.read"),
        ("receive", "next"),
        ("send", "start_response"),
        ("send", "block"),
        *[("receive", "next"), ("send", "block")] * 5,
        ("receive", "next"),
        ("send", "StopIteration"),
        ("receive", "close"),
    ]
    assert notes[1]["size"] == len(HELLO)
    assert [note["head"] for note in notes if note["type"] == "block"] == [f"{block.decode()}\n\n" for block in blocks]


def test_a_server_that_stops_pulling_shows_as_a_close(service: WsgiService) -> None:
    with service.open("POST", "/generate", HELLO, ASKED) as exchange:
        exchange.next_event()
    record = saved(service)
    assert record["ended"]
    assert [note["type"] for note in record["messages"]][-2:] == ["block", "close"]
    assert service.engine.aborted == [1]


def test_a_transcript_changes_nothing_of_what_the_door_answers(service: WsgiService) -> None:
    with pulled_by_hand() as unwatched:
        for method, path, body in (
            ("POST", "/generate", HELLO),
            ("POST", "/generate", b'{"prompt": "hello"}'),
            ("POST", "/generate", b"nonsense"),
            ("GET", "/openapi.json", b""),
            ("HEAD", "/live", b""),
            ("GET", "/nowhere", b""),
        ):
            assert service.request(method, path, body, ASKED) == unwatched.request(method, path, body, ASKED)


def test_every_way_to_read_the_body_is_written_down() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        stream = environ["wsgi.input"]
        read = [stream.read(2), stream.readline(), *stream.readlines(), *stream]
        assert read == [b"ab", b"c\n", b"d\n", b"e"]
        start_response("200 OK", [("x-request-id", "abc"), ("content-type", "text/plain")])
        return [b""]

    transcript = Transcript(app)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.input": io.BytesIO(b"abc\nd\ne"),
    }
    list(transcript(environ, lambda *head: lambda data: None))
    record = transcript.records.answer("GET", "/transcript/abc.json", None)
    notes = json.loads(record.body)["messages"]  # type: ignore[union-attr]
    kinds = [note["type"] for note in notes if note["direction"] == "receive"]
    assert kinds == [f"wsgi.input.{name}" for name in ("read", "readline", "readlines", "readlines")] + ["next", "next"]


def test_an_application_that_raises_ends_its_record() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        raise RuntimeError("no")

    transcript = Transcript(app)
    environ = {"REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.input": None, "HTTP_X_REQUEST_ID": "abc"}
    with pytest.raises(RuntimeError):
        transcript(environ, lambda *head: lambda data: None)
    record = transcript.records.answer("GET", "/transcript/abc.json", None)
    assert json.loads(record.body)["ended"]  # type: ignore[union-attr]


def test_an_iterable_without_close_is_closed_all_the_same(service: WsgiService) -> None:
    exchange = WsgiExchange(Transcript(wsgi_app([b"a", b"b"])), service.environ("GET", "/"))
    assert exchange.response().body == b"ab"


def test_a_transcript_can_be_followed_from_another_thread_while_the_request_runs(service: WsgiService) -> None:
    followed: list[bytes] = []

    def follow() -> None:
        with service.open("GET", "/transcript/abc") as follower:
            followed.append(follower.next_block())
            followed.append(follower.next_block())
            followed.append(follower.response().body)

    with service.open("POST", "/generate", HELLO, ASKED) as exchange:
        exchange.next_event()
        thread = threading.Thread(target=follow)
        thread.start()
        wait_until(lambda: followed, "the notes so far")
        assert followed[0].startswith(b"id: 0\n")
        assert followed[0].count(b"\n\n") == 5
        exchange.next_event()
        wait_until(lambda: len(followed) == 2, "the next note")
        exchange.response()
    thread.join(20)
    assert followed[-1].endswith(b"event: end\ndata: {}\n\n")


def test_an_eventsource_that_asks_again_gets_204_and_an_unknown_id_404(service: WsgiService) -> None:
    service.request("POST", "/generate", HELLO, ASKED)
    assert service.request("GET", "/transcript/abc", headers={"last-event-id": "4"}).status == 204
    assert service.request("GET", "/transcript/unknown").status == 404
    assert service.request("POST", "/transcript/abc").status == 405


def test_a_transcript_is_off_unless_the_settings_ask_for_it() -> None:
    app = wsgi_app([b""])
    assert with_transcript(app, Config()) is app
