"""Every door shows the kept responses alike, and each API key's holder only those that were made with that key."""

import json
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from config import Config
from contract.openai import references
from tests.support.asgi_client import JSON, Response
from tests.support.serving import Door, Service, by_hand
from tests.support.wsgi_client import pulled_by_hand

pytestmark = pytest.mark.anyio
PATH = "/v1/responses"
KEYS = Config(api_keys=("first", "second"))


def with_key(key: str) -> dict[str, str]:
    return JSON | {"authorization": f"Bearer {key}"}


async def reply_to(service: Service, method: str, path: str, key: str, body: Any = None) -> Response:
    content = b"" if body is None else json.dumps(body).encode()
    return await service.client.request(method, path, content, with_key(key))


@asynccontextmanager
async def with_a_response(door: Door) -> AsyncIterator[tuple[Service, dict[str, Any]]]:
    """A service with two keys, and a response that was made with the first."""
    async with by_hand(door, config=KEYS) as service:
        yield service, (await reply_to(service, "POST", PATH, "first", {"input": "hello"})).json()


async def test_what_is_kept_is_read_and_deleted_while_the_engine_is_away(door: Door) -> None:
    """So a client that polls for its answer gets it although the engine, elsewhere, is being restarted."""
    async with with_a_response(door) as (service, response):
        conversation = (await reply_to(service, "POST", "/v1/conversations", "first", {})).json()
        service.driver._on_outage("no server answers")
        path = f"{PATH}/{response['id']}"
        for kept in (path, f"{path}/input_items", f"/v1/conversations/{conversation['id']}/items"):
            assert (await reply_to(service, "GET", kept, "first")).status == 200, kept
        for needs_an_engine in ("/v1/models", "/tokenizer_info"):
            assert (await reply_to(service, "GET", needs_an_engine, "first")).status == 503, needs_an_engine
        assert (await reply_to(service, "DELETE", path, "first")).status == 200
        assert (await reply_to(service, "GET", path, "first")).status == 404


async def test_a_key_opens_no_response_of_another_key(door: Door) -> None:
    async with with_a_response(door) as (service, response):
        path, item = f"{PATH}/{response['id']}", {"type": "item_reference", "id": response["output"][0]["id"]}
        for method, url in (("GET", path), ("GET", f"{path}/input_items"), ("DELETE", path)):
            assert (await reply_to(service, method, url, "second")).status == 404
        follows = {"input": "So?", "previous_response_id": response["id"]}
        for key, statuses in (("second", (400, 404)), ("first", (200, 200))):
            answers = [await reply_to(service, "POST", PATH, key, body) for body in (follows, {"input": [item]})]
            assert tuple(answer.status for answer in answers) == statuses
        counted = await reply_to(service, "POST", f"{PATH}/input_tokens", "second", follows)
        assert counted.status == 400, "nor its length"
        assert (await reply_to(service, "GET", path, "first")).json() == response


async def test_a_long_conversation_is_read_on_a_thread_so_that_nothing_waits(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    check = references._check_length

    def observed(pieces: Sequence[bytes]) -> None:
        threads.append(threading.current_thread())
        check(pieces)

    monkeypatch.setattr(references, "_check_length", observed)
    async with by_hand(door, config=KEYS) as service:
        for padding, is_on_loop in (("", True), ("a" * 20_000, False)):
            items = [{"role": "user", "content": "hello", "padding": padding}]
            response = (await reply_to(service, "POST", PATH, "first", {"input": items})).json()
            follows = {"input": "So?", "previous_response_id": response["id"]}
            assert (await reply_to(service, "POST", PATH, "first", follows)).status == 200
            assert (threads.pop() is threading.current_thread()) == is_on_loop
            assert threads == []


async def test_a_key_lists_no_chats_of_another_key(door: Door) -> None:
    chats = "/v1/chat/completions"
    body = {"messages": [{"role": "user", "content": "hello"}], "store": True}
    async with by_hand(door, config=KEYS) as service:
        chat = (await reply_to(service, "POST", chats, "first", body)).json()
        for key, ids in (("first", [chat["id"]]), ("second", [])):
            assert [entry["id"] for entry in (await reply_to(service, "GET", chats, key)).json()["data"]] == ids
        for method, content in (("GET", None), ("POST", {"metadata": {}}), ("DELETE", None)):
            assert (await reply_to(service, method, f"{chats}/{chat['id']}", "second", content)).status == 404


async def test_a_key_opens_no_conversation_of_another_key(door: Door) -> None:
    async with by_hand(door, config=KEYS) as service:
        conversation = (await reply_to(service, "POST", "/v1/conversations", "first", {"items": []})).json()
        body = {"input": "hello", "conversation": conversation["id"]}
        assert (await reply_to(service, "POST", PATH, "second", body)).status == 404
        assert (await reply_to(service, "POST", PATH, "first", body)).status == 200
        path = f"/v1/conversations/{conversation['id']}"
        (item, _) = (await reply_to(service, "GET", f"{path}/items?order=asc", "first")).json()["data"]
        for url in (path, f"{path}/items", f"{path}/items/{item['id']}"):
            for key, status in (("first", 200), ("second", 404)):
                assert (await reply_to(service, "GET", url, key)).status == status
        assert (await reply_to(service, "DELETE", f"{path}/items/{item['id']}", "second")).status == 404
        assert (await reply_to(service, "DELETE", path, "second")).status == 404


async def test_a_path_with_an_id_needs_a_key(door: Door) -> None:
    async with with_a_response(door) as (service, response):
        for method in ("GET", "DELETE"):
            assert (await reply_to(service, method, f"{PATH}/{response['id']}", "third")).status == 401


async def test_a_response_is_read_listed_and_deleted_by_its_id(door: Door) -> None:
    async with with_a_response(door) as (service, response):
        path = f"{PATH}/{response['id']}"
        head = await reply_to(service, "HEAD", path, "first")
        assert (head.status, head.body) == (200, b"")
        assert (await reply_to(service, "GET", path, "first")).json() == response
        listed = (await reply_to(service, "GET", f"{path}/input_items?limit=1&order=asc", "first")).json()
        assert [item["content"][0]["text"] for item in listed["data"]] == ["hello"]
        cancelled = await service.client.request("POST", f"{path}/cancel", headers={"authorization": "Bearer first"})
        assert (cancelled.status, cancelled.json()["error"]["type"]) == (400, "invalid_request_error")
        wrong = await reply_to(service, "PUT", path, "first")
        assert (wrong.status, wrong.headers["allow"]) == (405, "DELETE, GET, HEAD")
        assert (await reply_to(service, "DELETE", path, "first")).json()["deleted"] is True
        assert (await reply_to(service, "DELETE", path, "first")).status == 404


def test_the_wsgi_door_keeps_conversations_too() -> None:
    with pulled_by_hand() as service:
        conversation = service.request("POST", "/v1/conversations", b"{}", JSON).json()
        body = json.dumps({"input": "say 4", "conversation": conversation["id"]}).encode()
        made = service.request("POST", PATH, body, JSON).json()
        path = f"/v1/conversations/{conversation['id']}/items"
        (newest, _) = service.request("GET", path).json()["data"]
        assert newest == made["output"][0]
        assert service.request("GET", f"{path}/{newest['id']}").json() == newest
        assert service.request("DELETE", f"{path}/{newest['id']}").json() == conversation


def test_the_wsgi_door_stores_chats_too() -> None:
    chats = "/v1/chat/completions"
    body = json.dumps({"messages": [{"role": "user", "content": "hello"}], "store": True}).encode()
    with pulled_by_hand() as service:
        made = service.request("POST", chats, body, JSON).json()
        path = f"{chats}/{made['id']}"
        changed = service.request("POST", path, b'{"metadata": {"a": "b"}}', JSON).json()
        assert changed == made | {"metadata": {"a": "b"}}
        assert service.request("GET", f"{chats}?metadata[a]=b").json()["data"] == [changed]
        assert service.request("GET", f"{path}/messages").json()["data"][0]["content"] == "hello"
        assert service.request("DELETE", path).json()["deleted"] is True


def test_the_wsgi_door_keeps_responses_too() -> None:
    with pulled_by_hand() as service:
        made = service.request("POST", PATH, json.dumps({"input": "hello"}).encode(), JSON).json()
        path = f"{PATH}/{made['id']}"
        assert service.request("GET", path).json() == made
        listed = service.request("GET", f"{path}/input_items?limit=1").json()
        assert [item["content"][0]["text"] for item in listed["data"]] == ["hello"]
        assert service.request("POST", f"{path}/cancel").status == 400
        assert service.request("PUT", path).headers["allow"] == "DELETE, GET, HEAD"
        assert service.request("DELETE", path).json() == {"id": made["id"], "object": "response", "deleted": True}
        assert service.request("GET", path).status == 404


def test_the_wsgi_door_shows_what_is_kept_after_its_engine_has_failed() -> None:
    with pulled_by_hand() as service:
        made = service.request("POST", PATH, b'{"input": "hello"}', JSON).json()
        assert service.request("POST", "/generate", b'{"prompt": "explode"}', JSON).status == 500
        assert service.request("GET", "/v1/models").status == 500
        assert service.request("GET", f"{PATH}/{made['id']}").json() == made
