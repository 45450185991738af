"""Every answer, whatever its status, has the request's id."""

import re
from collections.abc import Sequence
from typing import Any

import pytest

from interface.requests import EncodedRequest, TextPrompt
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import JSON
from tests.support.by_message import ANSWERS
from tests.support.serving import Door, by_hand

pytestmark = pytest.mark.anyio


@pytest.fixture
def full_for_one_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that has no room for the prompt "full"."""
    submit = ScriptedEngine.submit

    def or_full(self: ScriptedEngine, requests: Sequence[EncodedRequest], sink: Any) -> None:
        self.capacity = 0 if requests[0].request.prompt == TextPrompt("full") else 256
        submit(self, requests, sink)

    monkeypatch.setattr(ScriptedEngine, "submit", or_full)


@pytest.mark.usefixtures("full_for_one_prompt")
@pytest.mark.parametrize(("method", "path", "body", "headers", "status"), ANSWERS)
async def test_every_answer_has_the_clients_own_request_id(
    door: Door, method: str, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    async with by_hand(door) as service:
        response = await service.client.request(method, path, body, headers | {"x-request-id": "mine-1"})
    headers = response.headers
    assert (response.status, headers["x-request-id"], headers["request-id"]) == (status, "mine-1", "mine-1")


@pytest.mark.usefixtures("full_for_one_prompt")
@pytest.mark.parametrize(("method", "path", "body", "headers", "status"), ANSWERS)
async def test_every_answer_has_a_new_request_id_if_the_client_sent_none(
    door: Door, method: str, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    async with by_hand(door) as service:
        responses = [await service.client.request(method, path, body, headers) for _ in range(2)]
    ids = {response.headers["x-request-id"] for response in responses}
    assert {response.headers["request-id"] for response in responses} == ids
    assert len(ids) == 2
    assert all(re.fullmatch(r"[0-9a-f]{32}", request_id) for request_id in ids)


@pytest.mark.parametrize("insane", ["", " ", "a b", "a\nb", "a\r\nx: y", "é", "x" * 129, "x" * 100_000])
async def test_an_insane_request_id_is_replaced(door: Door, insane: str) -> None:
    async with by_hand(door) as service:
        response = await service.client.request("GET", "/health", headers={"x-request-id": insane})
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


@pytest.mark.parametrize("body", [b"{", b'{"max_tokens": 9, "messages": [{"role": "user", "content": "explode"}]}'])
async def test_an_error_of_the_messages_api_has_the_request_id_in_its_body_too(door: Door, body: bytes) -> None:
    async with by_hand(door) as service:
        response = await service.client.request("POST", "/v1/messages", body, JSON | {"x-request-id": "mine-1"})
    assert response.json()["request_id"] == "mine-1"
    assert response.headers["content-length"] == str(len(response.body))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", b'{"prompt": "hi"}'),
        ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "hi"}]}'),
        ("/v1/responses", b'{"input": "hi"}'),
        ("/v1/messages", b'{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}'),
    ],
)
async def test_answers_to_requests_of_one_id_have_ids_of_their_own(door: Door, path: str, body: bytes) -> None:
    async with by_hand(door) as service:
        headers = JSON | {"x-request-id": "mine-1"}
        first, second = [await service.client.request("POST", path, body, headers) for _ in range(2)]
    assert first.json()["id"] != second.json()["id"]
