"""Scopes of other protocols, and exceptions that the code did not expect."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

import contract
from interface.requests import EncodedRequest, GenerationRequest
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import until
from tests.support.serving import Door, by_hand

pytestmark = pytest.mark.anyio


async def sent_to_a_websocket(app: Any, path: str, **scope: Any) -> list[Any]:
    """The messages that an application sends where a client asks for a WebSocket."""
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope |= {"type": "websocket", "asgi": {"version": "3.0"}, "path": path, "headers": [], "subprotocols": []}
    await app(scope, receive, send)
    return sent


async def test_a_websocket_is_closed(door: Door) -> None:
    async with by_hand(door) as service:
        (message,) = await sent_to_a_websocket(service.app, "/generate")
    assert message["type"] == "websocket.close"
    assert message.get("code", 1000) == 1000


async def test_a_websocket_is_told_to_use_http_where_the_server_can_say_so(door: Door) -> None:
    async with by_hand(door) as service:
        start, body = await sent_to_a_websocket(
            service.app, "/v1/responses", extensions={"websocket.http.response": {}}
        )
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 426)
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()
    assert "server-sent events" in json.loads(body["body"])["error"]["message"]


@pytest.mark.parametrize("protocol", ["websocket", "WebSocket"])  # RFC 6455, section 4.2.1: in any case
async def test_a_websocket_that_comes_as_http_is_told_to_use_http(door: Door, protocol: str) -> None:
    """uvicorn without a library for WebSockets passes their handshakes on as requests."""
    handshake = {"upgrade": protocol, "connection": "Upgrade", "sec-websocket-version": "13"}
    async with by_hand(door) as service:
        answer = await service.client.request("GET", "/v1/responses", headers=handshake)
        assert (answer.status, answer.headers["upgrade"]) == (426, "HTTP/1.1")
        assert "WebSocket" in answer.json()["error"]["message"]
        assert (await service.client.request("GET", "/health", headers={"upgrade": "h2c"})).status == 200


@pytest.mark.parametrize("kind", ["mqtt", "http2", ""])
async def test_a_scope_of_an_unknown_type_raises(door: Door, kind: str) -> None:
    async def never(*message: Any) -> Any:
        raise AssertionError("nothing can be known of this protocol's messages")

    async with by_hand(door) as service:
        with pytest.raises((ValueError, AssertionError), match=r"^(Expected a scope|$)"):
            await service.app({"type": kind, "asgi": {"version": "3.0"}}, never, never)


class Careless(ScriptedEngine):
    """Raises an unexpected exception in an unexpected place."""

    def encode(self, requests: Sequence[GenerationRequest]) -> list[EncodedRequest]:
        raise ZeroDivisionError("a mistake")


async def test_a_mistake_of_our_own_is_500_and_is_raised_for_the_servers_log(door: Door) -> None:
    async with by_hand(door, Careless()) as service, service.client.open_generate("hello") as exchange:
        with pytest.raises(ZeroDivisionError):
            await exchange.end()
        response = exchange.collected()
    assert (response.status, response.json()) == (500, {"detail": "Internal Server Error"})
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert "mistake" not in response.body.decode()


async def test_a_mistake_after_the_start_is_raised_and_stops_the_request(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def break_off(*arguments: Any) -> Any:
        yield b": fine so far\n\n"
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(contract, "frames", break_off)
    async with by_hand(door) as service:
        service.engine.hold()
        async with service.client.open_generate("hello") as exchange:
            with pytest.raises(Exception, match=r".") as caught:
                await exchange.end()
            assert caught.group_contains(ZeroDivisionError) or isinstance(caught.value, ZeroDivisionError)
        assert [message["type"] for message in exchange.sent] == ["http.response.start", "http.response.body"]
        assert exchange.sent[-1]["more_body"] is True
        await until(lambda: service.engine.aborted == [1])
