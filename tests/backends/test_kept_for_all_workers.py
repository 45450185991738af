"""Responses that one worker has made are found by all workers, as they are kept in the engine's process."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backends.load import load_service
from backends.socket_service import SocketService
from config import Config
from study.common.engine import HELLO, ScriptedEngine
from tests.support.asgi_client import JSON, PATIENCE, Response, lifespan, until
from tests.support.driving import signalled
from tests.support.openai_answers import named_events
from tests.support.serving import Door, Service, assemble
from tests.support.sharing import hosting

pytestmark = pytest.mark.anyio
PATH = "/v1/responses"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "engine.sock"


@asynccontextmanager
async def worker(door: Door, path: Path, **settings: Any) -> AsyncIterator[Service]:
    service = assemble(door, load=load_service, config=Config(socket=str(path), **settings))
    async with lifespan(service.app):
        await until(lambda: service.driver.status == "ok", "the engine's welcome")
        yield service


async def made(service: Service, key: str = "", path: str = PATH, **body: Any) -> Response:
    data = json.dumps(body).encode()
    return await service.client.request("POST", path, data, JSON | {"authorization": f"Bearer {key}"})


async def test_another_worker_goes_on_after_a_response_shows_it_and_deletes_it(door: Door, path: Path) -> None:
    async with hosting(path), worker(door, path) as one, worker(door, path) as other:
        first = (await made(one, input="hello")).json()
        second = await made(other, input="say 4", previous_response_id=first["id"])
        assert second.status == 200
        reference = {"type": "item_reference", "id": first["output"][0]["id"]}
        assert (await made(other, input=[reference, {"role": "user", "content": "say 4"}])).status == 200
        shown = await other.client.request("GET", f"{PATH}/{first['id']}")
        assert shown.json() == first
        items = (await one.client.request("GET", f"{PATH}/{second.json()['id']}/input_items?order=asc")).json()["data"]
        assert [item["content"][0]["text"] for item in items] == ["hello", "".join(HELLO), "say 4"]
        assert (await other.client.request("DELETE", f"{PATH}/{first['id']}")).status == 200
        assert (await one.client.request("GET", f"{PATH}/{first['id']}")).status == 404
        assert (await made(one, input="So?", previous_response_id=first["id"])).status == 400


async def test_all_workers_list_and_change_the_same_stored_chats(door: Door, path: Path) -> None:
    chats = "/v1/chat/completions"
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "store": True}
    async with hosting(path), worker(door, path) as one, worker(door, path) as other:
        stored = [await made(service, path=chats, **body) for service in (one, other)]
        ids = [answer.json()["id"] for answer in stored]
        changed = await made(other, path=f"{chats}/{ids[0]}", metadata={"a": "b"})
        assert changed.status == 200
        listed = (await one.client.request("GET", chats)).json()["data"]
        assert [(chat["id"], chat["metadata"]) for chat in listed] == [(ids[0], {"a": "b"}), (ids[1], {})]
        assert (await one.client.request("DELETE", f"{chats}/{ids[1]}")).status == 200
        assert len((await other.client.request("GET", chats)).json()["data"]) == 1


async def test_a_conversation_grows_from_any_worker(door: Door, path: Path) -> None:
    async with hosting(path), worker(door, path) as one, worker(door, path) as other:
        conversation = (await made(one, path="/v1/conversations")).json()["id"]
        for service, text in ((one, "say 1"), (other, "say 2"), (one, "say 3")):
            answer = await made(service, input=text, conversation=conversation)
            assert answer.json()["conversation"] == {"id": conversation}
            assert (await other.client.request("GET", f"{PATH}/{answer.json()['id']}")).status == 200
        listed = await other.client.request("GET", f"/v1/conversations/{conversation}/items?order=asc")
        texts = [item["content"][0]["text"] for item in listed.json()["data"]]
        assert texts == ["say 1", "1", "say 2", "2", "say 3", "3"]


async def test_a_response_outlasts_the_worker_that_made_it(door: Door, path: Path) -> None:
    async with hosting(path), worker(door, path) as other:
        async with worker(door, path) as one:
            response = (await made(one, input="hello")).json()
        assert (await other.client.request("GET", f"{PATH}/{response['id']}")).json() == response


async def test_a_key_opens_no_response_of_another_key_in_any_worker(door: Door, path: Path) -> None:
    keys = ("first", "second")
    async with hosting(path), worker(door, path, api_keys=keys) as one, worker(door, path, api_keys=keys) as other:
        response = (await made(one, "first", input="hello")).json()
        statuses = [(await made(other, key, input="say 4", previous_response_id=response["id"])).status for key in keys]
        assert statuses == [200, 400]


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "not streaming"])
async def test_a_client_hears_of_a_response_only_when_all_workers_find_it(
    door: Door, path: Path, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_keep, keep = asyncio.Event(), asyncio.Event(), SocketService.keep

    async def keep_later(self: SocketService, pieces: Any, beside: str | None = None) -> None:
        begun.set()
        await may_keep.wait()
        await keep(self, pieces, beside)

    monkeypatch.setattr(SocketService, "keep", keep_later)
    async with hosting(path), worker(door, path) as service, service.client.open("POST", PATH, JSON) as exchange:
        exchange.send_body(json.dumps({"input": "hello", "stream": stream}).encode())
        await begun.wait()
        sent = b"".join(message.get("body", b"") for message in exchange.sent)
        assert (b"output_text.delta" in sent) == stream
        assert b"response.completed" not in sent
        may_keep.set()
        answer = await exchange.response()
        assert b"completed" in answer.body


async def test_without_an_engine_a_response_is_neither_found_nor_missing(door: Door, path: Path) -> None:
    async with hosting(path) as host, worker(door, path) as service:
        response = (await made(service, input="hello")).json()
        host.die()
        await until(lambda: service.driver.status != "ok")
        assert (await service.client.request("GET", f"{PATH}/{response['id']}")).status == 503
        assert (await made(service, input="So?", previous_response_id=response["id"])).status == 503


async def test_an_answer_is_sent_although_it_cannot_be_kept(
    door: Door, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: SocketService, pieces: Any, beside: str | None = None) -> None:
        raise ValueError("too large")

    monkeypatch.setattr(SocketService, "keep", fail)
    async with hosting(path), worker(door, path) as service:
        response = await made(service, input="hello")
        assert response.status == 200
        assert (await service.client.request("GET", f"{PATH}/{response.json()['id']}")).status == 404


async def test_at_the_end_of_all_workers_what_they_still_make_reaches_its_readers(door: Door, path: Path) -> None:
    engine = ScriptedEngine()
    async with (
        hosting(path, engine),
        worker(door, path, drain=PATIENCE) as one,
        worker(door, path, drain=PATIENCE) as other,
    ):
        engine.hold()
        body = {"input": "hello", "background": True, "stream": True}
        async with one.client.open("POST", PATH, JSON) as stream:
            stream.send_body(json.dumps(body).encode())
            await stream.next_message()
            id = named_events((await stream.next_message())["body"])[0]["response"]["id"]
        whole = asyncio.create_task(made(one, input="hello"))
        async with other.client.open("GET", f"{PATH}/{id}?stream=true") as again:
            again.send_body(b"")
            await again.next_message()
            await until(lambda: one.driver.counters().running == 2)
            ends = [asyncio.create_task(each.driver._shutdown.drain_when(signalled())) for each in (one, other)]
            await until(lambda: "shutting down" in one.driver.status)
            engine.release()
            assert (await whole).status == 200
            assert named_events((await again.response()).body)[-1]["type"] == "response.completed"
        await asyncio.gather(*ends)
