"""A request's body may come in pieces, keys may be missing, and its path may have a prefix."""

import pytest

from study.common.engine import HELLO
from tests.support.asgi_client import JSON, Exchange, http_scope
from tests.support.serving import Door, by_hand

pytestmark = pytest.mark.anyio


async def test_a_body_may_come_in_many_pieces(door: Door) -> None:
    body = '{"prompt": "hello 你好"}'.encode()
    async with by_hand(door) as service, service.client.open("POST", "/generate", JSON) as exchange:
        for position in range(len(body)):
            exchange.send_body(body[position : position + 1], more_body=True)
            exchange.send_body(b"", more_body=True)
        exchange.send_body(b"", more_body=False)
        assert (await exchange.response()).json()["text"] == "".join(HELLO)
        assert service.engine.prompts == ["hello 你好"]


async def test_the_keys_that_a_body_message_may_leave_out_are_not_needed(door: Door) -> None:
    async with by_hand(door) as service, service.client.open("POST", "/generate", JSON) as exchange:
        exchange.send_message({"type": "http.request", "body": b'{"prompt"', "more_body": True})
        exchange.send_message({"type": "http.request", "more_body": True})
        exchange.send_message({"type": "http.request", "body": b': "hello"}'})
        assert (await exchange.response()).status == 200


async def test_unknown_keys_in_a_scope_are_ignored(door: Door) -> None:
    async with by_hand(door) as service:
        scope = http_scope("GET", "/health") | {"extensions": {"http.response.trailers": {}}, "x": object()}
        async with Exchange(service.app, scope) as exchange:
            assert (await exchange.response()).status == 200


async def test_optional_keys_of_a_scope_are_not_needed(door: Door) -> None:
    scope = http_scope("POST", "/generate", JSON)
    for optional in ("scheme", "raw_path", "root_path", "client", "server"):
        del scope[optional]
    async with by_hand(door) as service, Exchange(service.app, scope) as exchange:
        exchange.send_body(b'{"prompt": "hello"}')
        assert (await exchange.response()).status == 200


async def test_a_content_type_that_came_twice_is_the_first_one(door: Door) -> None:
    twice = [(b"content-type", b"application/json"), (b"content-type", b"text/plain")]
    async with by_hand(door) as service:
        first = await service.client.request("POST", "/generate", b'{"prompt": "hello"}', twice)
        second = await service.client.request("POST", "/generate", b'{"prompt": "hello"}', reversed(twice))
    assert (first.status, second.status) == (200, 415)


@pytest.mark.parametrize(
    ("root_path", "path", "status"),
    [
        ("/api", "/api/health", 200),
        ("/api/v1", "/api/v1/health", 200),
        ("/api", "/health", 200),  # a proxy that strips the prefix, and a server that did not add it
        ("/api", "/api", 404),
        ("/api", "/apihealth", 404),
        ("/api", "/api/api/health", 404),
        ("/health", "/health", 404),
        ("/health", "/health/health", 200),
        ("/api/", "/api/health", 404),
    ],
)
async def test_root_path_is_taken_off_at_the_border_of_a_segment(
    door: Door, root_path: str, path: str, status: int
) -> None:
    async with by_hand(door) as service:
        assert (await service.client.request("GET", path, root_path=root_path)).status == status
