"""Requests that are refused before the engine sees them."""

from collections.abc import Sequence

import pytest

import contract
from interface.errors import UnusablePrompt
from interface.requests import EncodedRequest, GenerationRequest, TextPrompt
from study.common.engine import CONTEXT, HELLO, ScriptedEngine
from tests.support.asgi_client import JSON, events_of, until, with_settled_id
from tests.support.by_message import streaming_or_not, submitted
from tests.support.serving import Door, by_hand
from tests.support.wrong_bodies import WRONG_BODIES, WrongBody

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("wrong", WRONG_BODIES)
async def test_a_wrong_body_is_422_with_every_problem(door: Door, wrong: WrongBody) -> None:
    async with by_hand(door) as service:
        problems = (await service.client.post(wrong.body)).problems()
        assert [(problem["type"], tuple(problem["loc"])) for problem in problems] == [
            (problem, ("body", *place)) for problem, place in wrong.problems
        ]
        assert service.engine.prompts == []


async def test_a_wrong_body_is_refused_before_a_stream_starts(door: Door) -> None:
    async with by_hand(door) as service:
        response = await service.client.post(prompt="x", stream=True, max_tokens=0)
    assert (response.status, response.headers["content-type"]) == (422, "application/json")


@streaming_or_not
async def test_a_prompt_that_does_not_fit_the_context_is_422_with_both_lengths(door: Door, stream: bool) -> None:
    async with by_hand(door) as service:
        response = await service.client.post(prompt="one two three", max_tokens=CONTEXT - 2, stream=stream)
        fits = await service.client.post(prompt="one two three", max_tokens=CONTEXT - 3, stream=stream)
        assert service.engine.prompts == ["one two three"]
    (problem,) = response.problems()
    assert list(problem) == ["type", "loc", "msg", "input"]
    assert problem["loc"] == ["body", "prompt"]
    assert "3 tokens" in problem["msg"]
    assert str(CONTEXT - 2) in problem["msg"]
    assert str(CONTEXT) in problem["msg"]
    assert fits.status == 200


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_a_body_that_does_not_call_itself_json_is_415(door: Door, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    async with by_hand(door) as service:
        response = await service.client.request("POST", "/generate", b'{"prompt": "x"}', headers)
        assert service.engine.prompts == []
    assert response.status == 415
    assert "application/json" in response.json()["detail"]


async def test_a_body_of_exactly_the_limit_is_read(door: Door) -> None:
    body = b'{"prompt": "hello"}'.ljust(contract.MAX_TEXT_BYTES)
    async with by_hand(door) as service:
        response = await service.client.post(body)
    assert response.status == 200


async def test_a_body_over_the_limit_is_413(door: Door) -> None:
    body = b'{"prompt":"%b"}' % (b"a" * contract.MAX_TEXT_BYTES)
    async with by_hand(door) as service:
        response = await service.client.post(body)
        assert service.engine.prompts == []
    assert response.status == 413
    assert str(contract.MAX_TEXT_BYTES) in response.json()["detail"]


async def test_a_body_without_end_is_413_as_soon_as_it_is_over_the_limit(door: Door) -> None:
    piece = b" " * 65536
    async with by_hand(door) as service, service.client.open("POST", "/generate", JSON) as exchange:
        pieces = contract.MAX_BODY_BYTES // len(piece)
        for _ in range(pieces):
            exchange.send_body(piece, more_body=True)
        await until(lambda: exchange.receive_calls == pieces + 1)
        assert exchange.sent == []
        exchange.send_body(b" ", more_body=True)
        assert (await exchange.response()).status == 413


@streaming_or_not
async def test_a_full_queue_is_503_with_retry_after(door: Door, stream: bool) -> None:
    async with by_hand(door, ScriptedEngine(slots=1, max_waiting=1)) as service:
        service.engine.hold()
        async with submitted(service, "hello", True) as running, submitted(service, "hello", True) as waiting:
            response = await service.client.post(prompt="hello", stream=stream)
            assert response.status == 503
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["detail"]
            service.engine.release()
            assert len(events_of((await running.response()).body)) == len(HELLO) + 1
            assert len(events_of((await waiting.response()).body)) == len(HELLO) + 1
        assert (await service.client.post(prompt="hello", stream=stream)).status == 200


@pytest.mark.parametrize("path", ["/nothing", "/generate/", "/health/", "/docs/", "//health", "/Health", ""])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_an_unknown_path_is_404(door: Door, path: str, method: str) -> None:
    async with by_hand(door) as service:
        response = await service.client.request(method, path)
    assert response.status == 404
    assert response.json()["detail"].startswith("Not Found")
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/generate", "POST"),
        ("HEAD", "/generate", "POST"),
        ("PUT", "/generate", "POST"),
        ("OPTIONS", "/generate", "POST"),
        ("POST", "/health", "GET, HEAD"),
        ("DELETE", "/openapi.json", "GET, HEAD"),
        ("POST", "/docs", "GET, HEAD"),
        ("get", "/health", "GET, HEAD"),
        ("BREW", "/health", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_405_and_says_which_are_right(door: Door, method: str, path: str, allowed: str) -> None:
    async with by_hand(door) as service:
        response = await service.client.request(method, path)
        assert service.engine.prompts == []
    assert response.status == 405
    assert response.headers["allow"] == allowed
    if method != "HEAD":
        assert response.json() == {"detail": "Method Not Allowed"}


@pytest.mark.parametrize("path", ["/health", "/openapi.json", "/docs"])
async def test_head_has_the_headers_of_get_and_no_body(door: Door, path: str) -> None:
    async with by_hand(door) as service:
        get = await service.client.request("GET", path)
        head = await service.client.request("HEAD", path)
        assert service.engine.steps == 0
    assert (get.status, head.status) == (200, 200)
    assert head.body == b""
    assert head.headers["x-request-id"] != get.headers["x-request-id"]
    assert with_settled_id(head.headers) == with_settled_id(get.headers)
    assert get.headers["content-length"] == str(len(get.body))


@pytest.mark.parametrize("path", ["/generate", "/nothing"])
async def test_head_never_starts_the_engine(door: Door, path: str) -> None:
    async with by_hand(door) as service:
        response = await service.client.request("HEAD", path, b'{"prompt": "hello"}', JSON)
        assert (response.status, response.body) == (405 if path == "/generate" else 404, b"")
        assert (service.engine.prompts, service.engine.steps) == ([], 0)


async def test_a_prompt_that_the_model_cannot_use_is_422_and_harms_no_other(door: Door) -> None:
    class Choosy(ScriptedEngine):
        def encode(self, requests: Sequence[GenerationRequest]) -> list[EncodedRequest]:
            if requests[0].prompt == TextPrompt("☃"):
                raise UnusablePrompt("no token for it")
            return super().encode(requests)

    async with by_hand(door, Choosy()) as service:
        for stream in (True, False):
            (problem,) = (await service.client.post(prompt="☃", stream=stream)).problems()
            assert (problem["loc"], problem["msg"]) == (["body", "prompt"], "no token for it")
        assert (await service.client.post(prompt="hello")).status == 200
