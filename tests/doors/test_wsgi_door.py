"""The WSGI door, pulled by hand through the standard library's validator.

What the two ASGI doors answer is held to the contract by their own conformance suite; here it is enough that this
door answers the same, request by request. What it cannot do as they do is in `test_wsgi_differences.py`.
"""

import ast
import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

import contract
import raw_asgi
from config import Config
from study.common.engine import CONTEXT, ScriptedEngine
from tests.support.asgi_client import JSON, Response, events_of, with_settled_id
from tests.support.serving import by_hand, wait_until
from tests.support.wrong_bodies import WRONG_BODIES, WrongBody
from tests.support.wsgi_client import WsgiService, pulled_by_hand

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]


@pytest.fixture
def service() -> Iterator[WsgiService]:
    with pulled_by_hand() as service:
        yield service


def with_settled_ids(response: Response) -> Response:
    return Response(response.status, with_settled_id(response.headers), response.body)


async def asgi_answer(method: str, path: str, body: bytes, headers: dict[str, str]) -> Response:
    async with by_hand(raw_asgi.create_app) as service:
        return await service.client.request(method, path, body, headers)


def generate(**fields: Any) -> tuple[str, str, bytes, dict[str, str]]:
    return "POST", "/generate", json.dumps(fields).encode(), JSON


REQUESTS = {
    "a whole answer": generate(prompt="hello"),
    "a stream": generate(prompt="hello", stream=True),
    "a stream of emoji": generate(prompt="emoji", stream=True),
    "a stream with line breaks in its tokens": generate(prompt="newlines", stream=True),
    "a stream cut at max_tokens": generate(prompt="count 9", max_tokens=3, stream=True),
    "a prompt too long for the context": generate(prompt="hello", max_tokens=CONTEXT),
    "health": ("GET", "/health", b"", {}),
    "health, only the headers": ("HEAD", "/health", b"", {}),
    "the OpenAPI document": ("GET", "/openapi.json", b"", {}),
    "the page": ("GET", "/", b"", {}),
    "the page, only the headers": ("HEAD", "/", b"", {}),
    "the docs": ("GET", "/docs", b"", {}),
    "an unknown path": ("GET", "/nowhere", b"", {}),
    "a path that is not ASCII": ("GET", "/größe", b"", {}),
    "a trailing slash": ("GET", "/health/", b"", {}),
    "a wrong method": ("GET", "/generate", b"", {}),
    "a HEAD that must not generate": ("HEAD", "/generate", b"", {}),
    "another wrong method": ("DELETE", "/health", b"", {}),
    "no media type": ("POST", "/generate", b"{}", {}),
    "a form": ("POST", "/generate", b"prompt=x", {"content-type": "application/x-www-form-urlencoded"}),
    "a media type that is JSON's kin": (
        "POST",
        "/generate",
        b'{"prompt": "x"}',
        {"content-type": "application/a+json"},
    ),
    "a body too large": ("POST", "/generate", b" " * (contract.MAX_BODY_BYTES + 1), JSON),
    "the largest body": ("POST", "/generate", b'{"prompt": "hello"}'.ljust(contract.MAX_TEXT_BYTES), JSON),
    "an engine that fails in a stream": generate(prompt="explode", stream=True),
    "an engine that fails": generate(prompt="explode"),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_the_wsgi_door_answers_as_the_asgi_door_does(service: WsgiService, name: str) -> None:
    assert with_settled_ids(service.request(*REQUESTS[name])) == with_settled_ids(await asgi_answer(*REQUESTS[name]))


async def test_the_wsgi_door_refuses_each_wrong_body_as_the_asgi_door_does(service: WsgiService) -> None:
    async with by_hand(raw_asgi.create_app) as asgi:
        for case in WRONG_BODIES:
            wrong = case.values[0]
            assert isinstance(wrong, WrongBody)
            ours, theirs = service.post(wrong.body), await asgi.client.post(wrong.body)
            assert ours.status == 422, wrong.name
            assert with_settled_ids(ours) == with_settled_ids(theirs), wrong.name
    assert service.engine.prompts == []


def test_a_sane_request_id_of_the_clients_comes_back_and_another_does_not(service: WsgiService) -> None:
    sane = service.request("GET", "/health", headers={"x-request-id": "abc-1"}).headers
    assert (sane["x-request-id"], sane["request-id"]) == ("abc-1", "abc-1")
    made_up = service.request("GET", "/health", headers={"x-request-id": "a b"}).headers["x-request-id"]
    assert made_up != "a b"
    assert len(made_up) == 32


def test_a_full_queue_answers_503_with_a_time_to_come_back() -> None:
    with pulled_by_hand(ScriptedEngine(slots=1, max_waiting=0)) as service:
        with service.open_generate("count 100") as first:
            first.next_event()
            refused = service.post({"prompt": "hello"})
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert service.post({"prompt": "hello"}).status == 200


def test_after_the_engine_has_failed_health_says_why_and_nothing_is_taken(service: WsgiService) -> None:
    assert service.post({"prompt": "explode"}).status == 500
    health = service.request("GET", "/health")
    assert health.status == 503
    assert "the script says so" in health.json()["status"]
    assert service.post({"prompt": "hello"}).status == 500


def test_an_engine_that_fails_tells_every_open_stream(service: WsgiService) -> None:
    with service.open_generate("count 100") as bystander, service.open_generate("explode") as culprit:
        bystander.next_event()
        assert events_of(culprit.response().body)[-1]["error"]["type"] == "engine_error"
        assert events_of(bystander.response().body)[-1]["error"]["type"] == "engine_error"


def test_an_error_outside_a_step_ends_every_stream_too(service: WsgiService, monkeypatch: pytest.MonkeyPatch) -> None:
    with service.open_generate("count 100") as stream:
        stream.next_event()
        monkeypatch.setattr(service.engine, "step", lambda: 1 / 0)
        rest = stream.response().body
    assert "ZeroDivisionError" in events_of(rest)[-1]["error"]["message"]
    assert service.request("GET", "/health").status == 503


def test_a_mistake_in_the_door_is_answered_with_500_and_told_to_the_servers_log(
    service: WsgiService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.engine, "encode", lambda request: 1 / 0)
    response = service.post({"prompt": "hello"})
    assert (response.status, response.json()) == (500, {"detail": "Internal Server Error"})
    assert "ZeroDivisionError" in service.errors.getvalue()


def test_each_block_is_one_event_and_is_made_only_when_it_is_pulled(service: WsgiService) -> None:
    with service.open_generate("count 100") as stream:
        for n in range(5):
            assert stream.next_event()["token"] == f"{n} "
            assert service.engine.generated_tokens == n + 1


def test_close_in_the_middle_of_a_stream_stops_its_request(service: WsgiService) -> None:
    stream = service.open_generate("count 100")
    for _ in range(5):
        stream.next_event()
    stream.close()
    assert service.engine.aborted == [1]
    assert service.engine.generated_tokens == 5
    assert service.driver.counters().running == 0


def test_the_metrics_count_what_this_door_has_answered(service: WsgiService) -> None:
    with service.open_generate("count 5") as stream:
        while stream.next_event().get("finish_reason") is None:
            pass
    metrics = service.request("GET", "/metrics").body.decode()
    assert 'engine_requests_total{finish_reason="stop"} 1.0' in metrics
    assert "engine_time_to_first_token_seconds_count 1.0" in metrics
    assert "engine_inter_token_seconds_count 4.0" in metrics


def test_close_before_the_first_block_was_asked_for_stops_the_request_too(service: WsgiService) -> None:
    service.open_generate("count 100").close()
    assert service.engine.aborted == [1]


def test_close_after_the_end_aborts_nothing(service: WsgiService) -> None:
    with service.open_generate("hello") as stream:
        stream.response()
    assert service.engine.aborted == []


def test_a_request_is_aborted_when_start_response_raises(service: WsgiService) -> None:
    def start_response(*arguments: object) -> Any:
        raise ValueError("the server does not like it")

    body = json.dumps({"prompt": "count 100", "stream": True}).encode()
    environ = service.environ("POST", "/generate", body, {"content-type": "application/json"})
    blocks: Any = service.app(environ, start_response)
    with pytest.raises(ValueError, match="does not like it"):
        next(iter(blocks))
    blocks.close()
    assert service.engine.aborted == [1]


def test_streams_in_threads_share_the_engines_steps(service: WsgiService) -> None:
    """Eight pull at once; each gets all of its own, and a step makes a token for all of them, not for one."""
    service.engine.hold()
    bodies: list[bytes] = []

    def read() -> None:
        with service.open_generate("count 50") as stream:
            bodies.append(stream.response().body)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: service.driver.counters().running == 8, "eight requests in the engine")
    service.engine.release()
    for thread in threads:
        thread.join(20)
    assert [len(events_of(body)) for body in bodies] == [51] * 8
    assert service.engine.steps == 50


def test_close_while_another_thread_steps_stops_the_request_too(service: WsgiService) -> None:
    service.engine.hold()
    with service.open_generate("hello") as other:
        reading = threading.Thread(target=other.next_block)
        with service.open_generate("count 100"):
            reading.start()
            wait_until(lambda: service.engine.stepping_threads == {reading.ident})
        wait_until(lambda: service.engine.aborted == [2])
        service.engine.release()
        reading.join(20)


def test_a_silence_is_filled_with_a_comment() -> None:
    with pulled_by_hand(config=Config(heartbeat=0.01)) as service:
        service.engine.hold()
        with service.open_generate("hello") as stream:
            assert stream.next_block() == b": heartbeat\n"
            service.engine.release()
            assert events_of(stream.response().body)[-1]["finish_reason"] == "stop"


def test_a_body_that_ends_too_soon_starts_nothing(service: WsgiService) -> None:
    headers = {"content-type": "application/json", "content-length": "100"}
    assert service.request("POST", "/generate", b'{"prompt": "hello"}', headers).status == 400
    assert service.engine.prompts == []


class NoChunk(Exception):
    """As gunicorn raises it, whose exceptions have no base that a door could know."""


@pytest.mark.parametrize("error", [ConnectionResetError, NoChunk])
def test_a_body_that_breaks_off_starts_nothing(service: WsgiService, error: type[Exception]) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise error

    environ = service.environ("POST", "/generate", b"{}", {"content-type": "application/json"})
    environ["wsgi.input"] = Broken()
    heads: list[str] = []
    list(service.app(environ, lambda status, *rest: heads.append(status)))  # type: ignore[arg-type]
    assert heads == ["400 Bad Request"]
    assert service.errors.getvalue() == ""


@pytest.mark.parametrize("length", ["abc", "-5", "+18", "1_8", "18, 18"])
def test_a_length_that_is_no_number_is_a_400_and_no_reason_to_wait(service: WsgiService, length: str) -> None:
    headers = {"content-type": "application/json", "content-length": length}
    environ = service.environ("POST", "/generate", b'{"prompt": "hello"}', headers)
    heads: list[str] = []
    blocks = list(service.app(environ, lambda status, *rest: heads.append(status)))  # type: ignore[arg-type]
    assert heads == ["400 Bad Request"]
    assert f"to be a number of bytes, got {length!r}" in b"".join(blocks).decode()


@pytest.mark.parametrize("length", [str(contract.MAX_BODY_BYTES + 1), "9" * 30, "9" * 5000])
def test_a_body_that_is_announced_as_too_large_is_413_and_is_not_waited_for(service: WsgiService, length: str) -> None:
    class Silent(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise AssertionError("a read would wait")

    headers = {"content-type": "application/json", "content-length": length}
    environ = service.environ("POST", "/generate", b"", headers)
    environ["wsgi.input"] = Silent()
    heads: list[str] = []
    list(service.app(environ, lambda status, *rest: heads.append(status)))  # type: ignore[arg-type]
    assert heads == [f"413 {HTTPStatus(413).phrase}"]
    assert service.errors.getvalue() == ""


@pytest.mark.parametrize("name", ["modèle", "模型", "a/b 😀"])
def test_a_models_name_may_have_any_characters(name: str) -> None:
    with pulled_by_hand(config=Config(model_name=name)) as service:
        answer = service.request("GET", f"/v1/models/{name}")
    assert (answer.status, answer.json()["id"]) == (200, name)


def test_a_body_without_a_length_is_read_to_its_end_where_the_server_marks_it(service: WsgiService) -> None:
    body = b'{"prompt": "hello"}'
    environ = service.environ("POST", "/generate", body, {"content-type": "application/json"})
    environ |= {"CONTENT_LENGTH": "", "wsgi.input_terminated": True}
    heads: list[str] = []
    list(service.app(environ, lambda status, *rest: heads.append(status)))  # type: ignore[arg-type]
    assert heads == ["200 OK"]


def test_each_generation_leaves_one_line_in_the_log(service: WsgiService, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "engine.access")
    service.post({"prompt": "hello"}, {"x-request-id": "abc"})
    with service.open_generate("count 100") as stream:
        stream.next_event()
    first, second = [record.getMessage() for record in caplog.records if record.name == "engine.access"]
    assert "request_id=abc prompt_tokens=1 completion_tokens=4" in first
    assert "finish_reason=stop" in first
    assert "prompt_tokens=2 completion_tokens=1" in second
    assert "finish_reason=abort" in second


def test_importing_it_brings_in_no_event_loop_no_framework_and_no_model() -> None:
    names = ("asyncio", "anyio", "starlette", "uvicorn", "torch", "transformers")
    program = f"import raw_wsgi, sys; print([name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_wsgi_door_has_the_order_and_the_names_of_the_asgi_door() -> None:
    """Except for functions that WSGI has no counterpart for, and `EventStream`, which replaces them."""
    only_there = {"listen_for_disconnect", "header", "lifespan"}
    names = {
        file: [
            node.name
            for node in ast.parse((ROOT / file).read_text()).body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        ]
        for file in ("raw_asgi.py", "raw_wsgi.py")
    }
    assert [name for name in names["raw_asgi.py"] if name not in only_there] == [
        name for name in names["raw_wsgi.py"] if name != "EventStream"
    ]
