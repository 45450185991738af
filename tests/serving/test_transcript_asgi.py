"""The ASGI transcript: what it records, keeps, shows and serves."""

import json
import re
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

import raw_asgi
from config import Config
from serving.command_line import main, main_wsgi
from serving.driver import Driver
from serving.transcript.asgi import Transcript, with_transcript
from serving.transcript.records import Note, Records, text_of
from serving.transcript.terminal import printable, show
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import JSON, SERVERS, Client, Exchange, http_scope, lifespan, until
from tests.support.http_client import Connection
from tests.support.serving import Service, assemble, in_a_process, on_a_socket, wait_until

pytestmark = pytest.mark.anyio
ASKED = JSON | {"x-request-id": "abc"}


async def serve(transcript: Transcript, driver: Driver) -> AsyncIterator[None]:
    async with lifespan(transcript):
        await until(lambda: driver.status == "ok")
        yield


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """The raw ASGI door with a transcript around it, by hand."""
    service = assemble(raw_asgi.create_app)
    service.app = Transcript(service.app, Records(max_requests=3, max_notes=30, head_bytes=40))
    service.client = Client(service.app)
    async with lifespan(service.app):
        await until(lambda: service.driver.status == "ok")
        yield service
        service.engine.release()


def ask(service: Service, prompt: str, request_id: str = "abc") -> Exchange:
    exchange = service.client.open("POST", "/generate", JSON | {"x-request-id": request_id})
    exchange.send_body(json.dumps({"prompt": prompt, "stream": True}).encode())
    return exchange


async def saved(service: Service, request_id: str = "abc") -> Any:
    response = await service.client.request("GET", f"/transcript/{request_id}.json")
    assert response.status == 200, response
    assert response.headers["content-length"] == str(len(response.body))
    return response.json()


async def next_notes(exchange: Exchange) -> list[dict[str, Any]]:
    """The notes in the next message of a followed transcript."""
    *events, after = (await exchange.next_message())["body"].decode().split("\n\n")
    assert after == ""
    notes = []
    for event in events:
        if event == "event: end\ndata: {}":
            notes.append({"type": "the end"})
            continue
        first, second = event.split("\n")
        notes.append(json.loads(second.removeprefix("data: ")))
        assert first == f"id: {notes[-1]['n']}"
    return notes


async def test_every_message_is_written_down_in_its_order_with_its_way_its_size_and_its_head(service: Service) -> None:
    body = b'{"prompt": "hello", "stream": true}'
    async with service.client.open("POST", "/generate", ASKED) as exchange:
        exchange.send_body(body[:10], more_body=True)
        exchange.send_body(body[10:])
        await exchange.response()
    record = await saved(service)
    assert (record["request_id"], record["ended"], record["dropped"]) == ("abc", True, 0)
    notes = record["messages"]
    assert [note["n"] for note in notes] == list(range(len(notes)))
    assert notes[0]["t_ms"] < 1000
    assert [note["t_ms"] for note in notes] == sorted(note["t_ms"] for note in notes)
    assert [(note["direction"], note["type"], note["size"]) for note in notes[:3]] == [
        ("scope", "http", len("POST /generate HTTP/1.1\ncontent-type: application/json\nx-request-id: abc")),
        ("receive", "http.request", 10),
        ("receive", "http.request", len(body) - 10),
    ]
    assert notes[0]["head"] == "POST /generate HTTP/1.1\ncontent-type: application/json"[:40]
    assert [note["more_body"] for note in notes[1:3]] == [True, False]
    assert notes[3]["type"] == "http.response.start"
    assert notes[3]["head"].startswith("200\n")
    sent = [note for note in notes[4:] if note["direction"] == "send"]
    assert [(note["type"], note["size"], note["head"], note["more_body"]) for note in sent] == [
        (message["type"], len(message["body"]), message["body"][:40].decode(), message["more_body"])
        for message in exchange.sent[1:]
    ]


async def test_the_messages_pass_unchanged_and_the_scope_is_the_servers_own(service: Service) -> None:
    seen: list[Any] = []
    start = {"type": "http.response.start", "status": 200, "headers": []}
    end = {"type": "http.response.body", "body": b"x", "unknown": object()}
    request = {"type": "http.request", "body": b"", "unknown": object()}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend((scope, await receive()))
        await send(start)
        await send(end)

    async def receive() -> Any:
        return request

    async def send(message: Any) -> None:
        seen.append(message)

    scope = http_scope("GET", "/", {})
    before = dict(scope)
    await Transcript(app)(scope, receive, send)
    assert all(one is other for one, other in zip(seen, (scope, request, start, end), strict=True))
    assert scope == before


@pytest.mark.parametrize("type", ["lifespan", "websocket", "unheard of"])
async def test_a_scope_that_is_not_http_goes_by_untouched(type: str) -> None:
    calls: list[tuple[Any, Any, Any]] = []

    async def app(*call: Any) -> None:
        calls.append(call)

    call = ({"type": type}, lambda: None, lambda message: None)
    await Transcript(app)(*call)  # type: ignore[arg-type]
    assert calls == [call]


async def test_a_client_that_leaves_shows_as_the_message_that_says_so(service: Service) -> None:
    service.engine.hold()
    async with ask(service, "count 9") as exchange:
        await exchange.next_message()
        exchange.disconnect()
        await exchange.end()
    last = (await saved(service))["messages"][-1]
    assert (last["direction"], last["type"], last["size"]) == ("receive", "http.disconnect", 0)


async def test_a_send_that_raises_is_written_down_and_still_raises() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"x-request-id", b"abc")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    transcript = Transcript(app)
    raises = next(server for server in SERVERS if server.send_after_disconnect == "raises")
    exchange = Client(transcript).open("GET", "/", server=raises)
    exchange.disconnect()
    with pytest.raises(OSError, match="the client has left"):
        await exchange.end()
    record = (await Client(transcript).request("GET", "/transcript/abc.json")).json()
    assert [note["type"] for note in record["messages"]] == ["http", "http.response.start", "OSError"]
    assert record["ended"]


async def test_a_request_without_an_id_of_its_own_is_found_under_that_of_its_answer(service: Service) -> None:
    response = await service.client.post(prompt="hello")
    record = await saved(service, response.headers["x-request-id"])
    assert [note["type"] for note in record["messages"]][:2] == ["http", "http.request"]


async def test_a_transcript_that_is_followed_from_the_middle_begins_with_the_messages_so_far(
    service: Service,
) -> None:
    service.engine.hold()
    async with ask(service, "hello") as exchange:
        service.engine.release(1)
        await exchange.next_message()
        await exchange.next_message()
        async with service.client.open("GET", "/transcript/abc") as follower:
            follower.send_body(b"")
            start = await follower.next_message()
            headers = dict(start["headers"])
            assert start["status"] == 200
            assert headers[b"content-type"].startswith(b"text/event-stream")
            assert headers[b"x-accel-buffering"] == b"no"
            passed = await next_notes(follower)
            assert [note["n"] for note in passed] == [0, 1, 2, 3]
            service.engine.release(1)
            following = await next_notes(follower)
            assert following[0]["n"] == 4
            assert '"token":","' in following[0]["head"]
            service.engine.release()
            await exchange.response()
            while following[-1]["type"] != "the end":
                following += await next_notes(follower)
            assert [note["n"] for note in following[:-1]] == list(range(4, 3 + len(following)))
            await follower.response()


async def test_a_transcript_that_is_followed_after_its_end_comes_whole_and_ends(service: Service) -> None:
    async with ask(service, "hello") as exchange:
        await exchange.response()
    response = await service.client.request("GET", "/transcript/abc")
    assert response.body.startswith(b'id: 0\ndata: {"n": 0, "t_ms": ')
    assert response.body.endswith(b"\n\nevent: end\ndata: {}\n\n")
    assert response.body.count(b"\ndata: {") == len((await saved(service))["messages"]) + 1


async def test_an_eventsource_that_asks_again_is_told_that_there_is_no_more(service: Service) -> None:
    async with ask(service, "hello") as exchange:
        await exchange.response()
    response = await service.client.request("GET", "/transcript/abc", headers={"last-event-id": "9"})
    assert (response.status, response.body) == (204, b"")
    assert "content-type" not in response.headers


async def test_a_follower_that_leaves_ends_its_own_request_and_not_the_one_it_watched(service: Service) -> None:
    service.engine.hold()
    async with ask(service, "hello") as exchange:
        await exchange.next_message()
        async with service.client.open("GET", "/transcript/abc") as follower:
            await follower.next_message()
            await follower.next_message()
            follower.disconnect()
            await follower.end()
        service.engine.release()
        assert (await exchange.response()).status == 200


async def test_an_unknown_id_is_404_and_another_method_is_405(service: Service) -> None:
    for path in ("/transcript/unknown", "/transcript/unknown.json", "/transcript/"):
        response = await service.client.request("GET", path)
        assert (response.status, list(response.json())) == (404, ["detail"])
    response = await service.client.request("POST", "/transcript/abc")
    assert (response.status, response.headers["allow"]) == (405, "GET")


async def test_a_transcript_is_found_below_the_path_that_the_service_is_mounted_on(service: Service) -> None:
    async with ask(service, "hello") as exchange:
        await exchange.response()
    response = await service.client.request("GET", "/llm/transcript/abc.json", root_path="/llm")
    assert response.status == 200


async def test_memory_is_bounded_in_requests_in_messages_and_in_bytes(service: Service) -> None:
    for name in ("one", "two", "three", "four"):
        async with ask(service, "count 100", name) as exchange:
            await exchange.response()
    assert (await service.client.request("GET", "/transcript/one.json")).status == 404
    record = await saved(service, "two")
    assert len(record["messages"]) == 30
    assert record["dropped"] > 70
    assert max(len(note["head"].encode()) for note in record["messages"]) == 40


async def test_health_checks_push_nothing_out(service: Service) -> None:
    async with ask(service, "hello") as exchange:
        await exchange.response()
    for _ in range(10):
        await service.client.request("GET", "/health", headers={"x-request-id": "pulse"})
    assert (await saved(service))["ended"]
    assert (await service.client.request("GET", "/transcript/pulse")).status == 404


async def test_a_transcript_is_off_unless_the_settings_ask_for_it() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    assert with_transcript(app, Config()) is app
    assert isinstance(with_transcript(app, Config(transcript=True)), Transcript)
    assert Config.from_environment({"ENGINE_TRANSCRIPT": "1"}).transcript


def test_over_a_real_server_the_transcript_of_a_stream_can_be_followed_while_it_runs() -> None:
    engine = ScriptedEngine()
    engine.hold()
    with (
        on_a_socket(raw_asgi.create_app, engine, Config(transcript=True)) as service,
        Connection(service.port) as stream,
        Connection(service.port) as follower,
    ):
        body = b'{"prompt": "hello", "stream": true}'
        stream.send_request("POST", "/generate", body, Content_Type="application/json", X_Request_Id="abc")
        stream.read_head()
        follower.send_request("GET", "/transcript/abc")
        assert follower.read_head()[0] == 200
        assert follower.read_chunk().startswith(b"id: 0\n")
        engine.release()
        assert b"".join(follower.chunks()).endswith(b"event: end\ndata: {}\n\n")
        list(stream.chunks())


# --- The terminal -----------------------------------------------------------------------------------------------------

NOTE = Note(3, 12.345, "send", "http.response.body", 58, 'data: {"token": "a"}\n\n', more_body=True)


def test_a_line_in_the_terminal_is_aligned_and_plain_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show(1, NOTE)
    show(12, Note(0, 0.0, "scope", "http", 1234, "POST /generate"))
    first, second = capsys.readouterr().out.splitlines()
    assert first == '#1         12.3 ms  send     http.response.body more        58 B  data: {"token": "a"}\\n\\n'
    assert second.index("scope") == first.index("send")
    assert second.index("POST") == first.index("data")


class Terminal:
    """A terminal to print to."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None: ...


def test_in_a_terminal_each_way_has_its_colour_unless_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    show(1, NOTE)
    assert terminal.text.startswith("\x1b[")
    assert terminal.text.endswith("\x1b[0m\n")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.text = ""
    show(1, NOTE)
    assert "\x1b" not in terminal.text
    assert len(terminal.text) == 60 + len("\n")


def test_a_prompt_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\r\n\u202ec é你") == "a\\x1b[2Jb\\r\\n\\u202ec é你"


def test_a_terminal_that_has_gone_away_does_not_end_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(Terminal):
        def write(self, text: str) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    show(1, NOTE)


def test_a_head_never_ends_in_half_a_character() -> None:
    assert text_of("ab你".encode(), 4) == "ab"
    assert text_of("ab你".encode(), 5) == "ab你"
    assert text_of(b"ab\xff", 9) == "ab\ufffd"


def test_the_flag_is_on_every_doors_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for serve in (main, main_wsgi):
        with pytest.raises(SystemExit):
            serve(lambda driver: driver, None, ["--help"])  # type: ignore[arg-type,return-value]
        assert "--transcript " in capsys.readouterr().out


@pytest.mark.parametrize("door", ["app", "raw_asgi"])
def test_a_door_started_with_the_flag_prints_each_message_as_it_passes(door: str) -> None:
    arguments = ["-c", f"import {door}; from serving import command_line; command_line.main({door}.create_app, None)"]
    with in_a_process([*arguments, "--port", "0", "--transcript", "--model", "/nowhere"]) as process:
        with Connection(process.port) as connection:
            connection.request("GET", "/openapi.json", X_Request_Id="abc")
        wait_until(lambda: "http.response.body last" in process.log)
        assert re.search(r"#1 +0\.0 ms  scope    http +\d+ B  GET /openapi.json HTTP/1.1\\n", process.log)
