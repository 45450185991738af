"""Both doors get the same request, and their answers are compared."""

import json
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import pytest

import contract
from config import Config
from interface.requests import EncodedRequest, GenerationRequest
from serving.driver import Driver
from serving.transcript.asgi import Transcript
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import JSON, SERVERS, Exchange, Response, Server, http_scope, until, with_settled_id
from tests.support.http_client import Connection
from tests.support.serving import DOORS, Door, Service, by_hand, on_a_socket
from tests.support.wrong_bodies import WRONG_BODIES, WrongBody

pytestmark = pytest.mark.anyio


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


REQUESTS: dict[str, tuple[str, str, bytes, dict[str, str]]] = {
    "health": ("GET", "/health", b"", {}),
    "health with a query": ("GET", "/health?verbose=1", b"", {}),
    "health by HEAD": ("HEAD", "/health", b"", {}),
    "the document": ("GET", "/openapi.json", b"", {}),
    "the document by HEAD": ("HEAD", "/openapi.json", b"", {}),
    **{f"page {path}": ("GET", path, b"", {}) for path in contract.PAGES},
    **{f"page {path} by HEAD": ("HEAD", path, b"", {}) for path in contract.PAGES},
    "no such path": ("GET", "/nothing", b"", {}),
    "no such path by HEAD": ("HEAD", "/nothing", b"", {}),
    "a slash too many": ("GET", "/health/", b"", {}),
    "a slash too many by POST": ("POST", "/generate/", body(prompt="x"), JSON),
    "an escaped slash": ("GET", "/%2Fhealth", b"", {}),
    "dots": ("GET", "/docs/../health", b"", {}),
    "not ASCII": ("GET", "/%C3%A9", b"", {}),
    "the wrong method": ("GET", "/generate", b"", {}),
    "the wrong method by HEAD": ("HEAD", "/generate", b"", {}),
    "OPTIONS": ("OPTIONS", "/generate", b"", {}),
    "POST to health": ("POST", "/health", b"x", {}),
    "an unknown method": ("BREW", "/docs", b"", {}),
    "no media type": ("POST", "/generate", body(prompt="x"), {}),
    "a media type that is not JSON": ("POST", "/generate", body(prompt="x"), {"content-type": "text/plain"}),
    "too large": ("POST", "/generate", b" " * (contract.MAX_BODY_BYTES + 1), JSON),
    "too large and not JSON": ("POST", "/generate", b" " * (contract.MAX_BODY_BYTES + 1), {}),
    "too long for the context": ("POST", "/generate", body(prompt="x", max_tokens=10**6), JSON),
    "whole": ("POST", "/generate", body(prompt="hello"), JSON),
    "whole, emoji": ("POST", "/generate", body(prompt="emoji"), JSON),
    "whole, cut": ("POST", "/generate", body(prompt="count 9", max_tokens=2), JSON),
    "whole, an error": ("POST", "/generate", body(prompt="explode"), JSON),
    "stream": ("POST", "/generate", body(prompt="hello", stream=True), JSON),
    "stream, line breaks": ("POST", "/generate", body(prompt="newlines", stream=True), JSON),
    "stream, cut": ("POST", "/generate", body(prompt="count 9", max_tokens=2, stream=True), JSON),
    "stream, an error": ("POST", "/generate", body(prompt="explode", stream=True), JSON),
    "an id of the client's": ("GET", "/health", b"", {"x-request-id": "mine"}),
}


def comparable(response: Response) -> Response:
    """The answer without what differs from one request to the next: a new id, the server's clock."""
    headers = {name: value for name, value in response.headers.items() if name != "date"}
    return Response(response.status, with_settled_id(headers), response.body)


async def messages_of(service: Service, method: str, path: str, body: bytes, headers: dict[str, str]) -> list[Any]:
    """All that a door sends, the headers in order of their names."""
    path, _, query = path.partition("?")
    scope = http_scope(method, path, headers) | {"query_string": query.encode()}
    async with Exchange(service.app, scope) as exchange:
        exchange.send_body(body)
        await exchange.end()
    start, *bodies = [dict(message) for message in exchange.sent]
    headers = with_settled_id({name.decode(): value.decode() for name, value in start["headers"]})
    return [start | {"headers": sorted(headers.items())}] + [
        (message["type"], message.get("body", b""), message.get("more_body", False)) for message in bodies
    ]


@pytest.mark.parametrize("name", REQUESTS)
async def test_the_doors_send_the_same_messages(name: str) -> None:
    sent = []
    for door in DOORS:
        async with by_hand(import_module(door).create_app, config=Config(model="a/model")) as service:
            sent.append(await messages_of(service, *REQUESTS[name]))
    assert sent[0] == sent[1]


@pytest.mark.parametrize("wrong", WRONG_BODIES)
async def test_the_doors_refuse_a_body_with_the_same_messages(wrong: WrongBody) -> None:
    sent = []
    for door in DOORS:
        async with by_hand(import_module(door).create_app) as service:
            sent.append(await messages_of(service, "POST", "/generate", wrong.body, JSON))
    assert sent[0] == sent[1]


def test_the_doors_give_the_same_answers_over_a_socket() -> None:
    """One connection for all requests, so a difference in framing would show in the next one."""
    answers: list[dict[str, Response]] = []
    for door in DOORS:
        seen = {}
        with (
            on_a_socket(import_module(door).create_app, config=Config(model="a/model")) as service,
            Connection(service.port) as connection,
        ):
            for name, (method, path, content, headers) in REQUESTS.items():
                if "an error" in name or name.startswith("too large"):
                    continue  # the engine would be gone, or the connection
                response = connection.request(
                    method, path, content or None, **{key.replace("-", "_"): value for key, value in headers.items()}
                )
                seen[name] = comparable(response)
        answers.append(seen)
    assert len(answers[0]) > 30
    for name in answers[0]:
        assert answers[0][name] == answers[1][name], name


async def test_the_doors_agree_while_loading_when_full_and_after_a_failure() -> None:
    seen: list[list[Any]] = []
    for door in DOORS:
        answers = []
        engine = ScriptedEngine(slots=1, max_waiting=0)
        async with by_hand(import_module(door).create_app, engine, Config(model="a/model")) as service:
            engine.hold()
            async with service.client.open_generate("explode", stream=False) as running:
                await until(lambda engine=engine: engine.counters().running == 1)  # type: ignore[misc]
                answers.append(await service.client.post(prompt="hello"))
                answers.append(await service.client.request("GET", "/health"))
                engine.release()
                answers.append(await running.response())
                await until(lambda service=service: service.driver.status != "ok")  # type: ignore[misc]
            for stream in (True, False):
                answers.append(await service.client.post(prompt="hello", stream=stream))
            answers.append(await service.client.request("GET", "/health"))
            answers.append(await service.client.request("HEAD", "/health"))
        answers.append(await service.client.request("GET", "/health"))
        answers.append(await service.client.post(prompt="hello"))
        seen.append([comparable(answer) for answer in answers])
    assert seen[0] == seen[1]
    assert [answer.status for answer in seen[0]] == [503, 200, 500, 500, 500, 503, 503, 503, 500]


async def test_the_doors_agree_about_a_mistake_of_our_own() -> None:
    class Careless(ScriptedEngine):
        def encode(self, requests: Sequence[GenerationRequest]) -> list[EncodedRequest]:
            raise ZeroDivisionError

    answers = []
    for door in DOORS:
        async with (
            by_hand(import_module(door).create_app, Careless()) as service,
            service.client.open_generate("hello") as exchange,
        ):
            with pytest.raises(ZeroDivisionError):
                await exchange.end()
            answers.append(comparable(exchange.collected()))
    assert answers[0] == answers[1]
    assert answers[0].status == 500


@pytest.mark.parametrize("server", SERVERS, ids=str)
async def test_the_doors_send_as_much_to_a_client_that_leaves(server: Server) -> None:
    sent = []
    for door in DOORS:
        async with by_hand(import_module(door).create_app) as service:
            service.engine.hold()
            async with service.client.open_generate("count 300", True, server, max_tokens=300) as exchange:
                await exchange.next_message()
                service.engine.release(2)
                await exchange.next_event()
                await exchange.next_event()
                exchange.disconnect()
                await exchange.end()
            await until(lambda service=service: service.engine.aborted == [1])  # type: ignore[misc]
            sent.append([message["type"] for message in exchange.sent])
    assert sent[0] == sent[1] == ["http.response.start", "http.response.body", "http.response.body"]


def test_what_runs_on_a_door_runs_on_a_door_with_a_transcript_too(door: Door, request: pytest.FixtureRequest) -> None:
    """If the fixture did not wrap the door, the doors' tests would prove nothing about the transcript."""
    is_watched = isinstance(door(Driver(Config())), Transcript)
    assert is_watched == request.node.callspec.id.endswith("with transcript")
