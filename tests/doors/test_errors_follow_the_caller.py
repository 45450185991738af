"""Anthropic's clients get errors in the shape of their API, at whatever path they ask: they say so in a header."""

import json

import pytest

import contract
from config import Config
from interface.errors import QueueFull
from tests.support.asgi_client import JSON, Response
from tests.support.serving import Door, Service, by_hand
from tests.support.wsgi_client import pulled_by_hand

pytestmark = pytest.mark.anyio
VERSION = {"anthropic-version": "2023-06-01"}
REFUSED = [
    ("GET", "/v1/models/other", 404, "not_found_error"),
    ("GET", "/v1/models?limit=0", 400, "invalid_request_error"),
    ("PUT", "/v1/models", 405, "invalid_request_error"),
    ("GET", "/v1/files", 404, "not_found_error"),
    ("GET", "/nothing", 404, "not_found_error"),
    ("POST", "/v1/messages/batches", 404, "not_found_error"),
]


def type_of(response: Response) -> str:
    """The type of an error in Anthropic's shape, which has the request's id, too."""
    body = json.loads(response.body)
    assert list(body) == ["type", "error", "request_id"]
    assert (body["type"], body["request_id"]) == ("error", response.headers["request-id"])
    found: str = body["error"]["type"]
    return found


async def reply_to(service: Service, method: str, path: str, key: str = "") -> Response:
    return await service.client.request(method, path, b"", VERSION | ({"x-api-key": key} if key else {}))


@pytest.mark.parametrize(("method", "path", "status", "type"), REFUSED)
async def test_a_refusal_has_the_shape_of_the_callers_api(
    door: Door, method: str, path: str, status: int, type: str
) -> None:
    async with by_hand(door) as service:
        response = await reply_to(service, method, path)
    assert (response.status, type_of(response)) == (status, type)


async def test_refusals_of_the_middleware_and_of_limits_have_the_shape_of_the_callers_api(door: Door) -> None:
    async with by_hand(door, config=Config(api_keys=("right",), client_requests=1)) as service:
        wrong = await reply_to(service, "GET", "/v1/models", "wrong")
        assert (wrong.status, type_of(wrong)) == (401, "authentication_error")
        key = {"x-api-key": "right"}
        async with service.client.open("POST", "/v1/completions", JSON | key):  # its body does not come
            too_many = await reply_to(service, "GET", "/v1/models", "right")
        assert (too_many.status, type_of(too_many)) == (429, "rate_limit_error")
    async with by_hand(door) as service:
        too_large = b" " * (contract.MAX_BODY_BYTES + 1)
        response = await service.client.request("POST", "/v1/completions", too_large, JSON | VERSION)
        assert (response.status, type_of(response)) == (413, "request_too_large")


async def test_other_clients_get_the_shape_of_the_path(door: Door) -> None:
    async with by_hand(door) as service:
        for path in ("/v1/models/other", "/v1/files"):
            assert list((await service.client.request("GET", path)).json()["error"]) == [
                "message",
                "type",
                "param",
                "code",
            ]


@pytest.mark.parametrize(("method", "path", "status", "type"), REFUSED)
def test_the_wsgi_door_does_the_same(method: str, path: str, status: int, type: str) -> None:
    with pulled_by_hand() as service:
        response = service.request(method, path, headers=VERSION)
    assert (response.status, type_of(response)) == (status, type)


def test_a_full_server_says_so_in_the_callers_shape() -> None:
    answer = contract.dialect("/v1/models", VERSION["anthropic-version"]).refusal(QueueFull("full"))
    assert (answer.status, json.loads(answer.body)["error"]["type"]) == (503, "overloaded_error")
