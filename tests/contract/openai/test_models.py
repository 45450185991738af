"""The names under which the model is served, from both doors."""

import json

import pytest

from config import Config
from contract.openai.models import CREATED, CREATED_AT
from study.common.engine import CONTEXT
from tests.support.asgi_client import JSON, events_of, until
from tests.support.openai_answers import MESSAGES
from tests.support.serving import Door, by_hand

pytestmark = pytest.mark.anyio

TWO_NAMES = Config(model_name="org/small,small")


def model(name: str) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": CREATED,
        "owned_by": "token-by-token",
        "max_model_len": CONTEXT,
        "type": "model",
        "display_name": name,
        "created_at": CREATED_AT,
        "lifecycle": "active",
        "max_input_tokens": CONTEXT,
        "max_tokens": CONTEXT,
    }


async def test_every_name_is_listed(door: Door) -> None:
    async with by_hand(door, config=TWO_NAMES) as service:
        response = await service.client.request("GET", "/v1/models")
    assert response.status == 200
    assert response.json() == {
        "object": "list",
        "data": [model("org/small"), model("small")],
        "has_more": False,
        "first_id": "org/small",
        "last_id": "small",
    }


@pytest.mark.parametrize(
    ("query", "names", "has_more"),
    [
        ("limit=2", ["a", "b"], True),
        ("limit=2&after_id=b", ["c"], False),
        ("after_id=c", [], False),
        ("limit=2&before_id=c", ["a", "b"], False),
        ("limit=1&before_id=c", ["b"], True),
        ("before_id=a", [], False),
    ],
)
async def test_the_names_come_in_pages(door: Door, query: str, names: list[str], has_more: bool) -> None:
    async with by_hand(door, config=Config(model_name="a,b,c")) as service:
        page = (await service.client.request("GET", f"/v1/models?{query}")).json()
    assert [entry["id"] for entry in page["data"]] == names
    ends = (names[0], names[-1]) if names else (None, None)
    assert (page["has_more"], page["first_id"], page["last_id"]) == (has_more, *ends)


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "after_id=d", "before_id=d"])
async def test_a_page_that_there_is_not_is_a_400_that_names_the_parameter(door: Door, query: str) -> None:
    async with by_hand(door, config=Config(model_name="a,b,c")) as service:
        response = await service.client.request("GET", f"/v1/models?{query}")
    assert (response.status, response.json()["error"]["param"]) == (400, query.partition("=")[0])


async def test_a_name_may_hold_a_slash(door: Door) -> None:
    async with by_hand(door, config=TWO_NAMES) as service:
        for name in ("org/small", "small"):
            assert (await service.client.request("GET", f"/v1/models/{name}")).json() == model(name)


@pytest.mark.parametrize("name", ["other", "org", "org/small/x", "", "small/"])
async def test_an_unknown_name_is_404_and_the_error_lists_the_known_ones(door: Door, name: str) -> None:
    async with by_hand(door, config=TWO_NAMES) as service:
        response = await service.client.request("GET", f"/v1/models/{name}")
    error = response.json()["error"]
    assert (response.status, error["param"], error["code"]) == (404, "model", "model_not_found")
    assert "org/small, small" in error["message"]


async def test_an_engine_that_failed_for_good_tells_clients_not_to_try_again(door: Door) -> None:
    async with by_hand(door) as service:
        await service.client.post(prompt="explode")
        await until(lambda: service.driver.status != "ok", "the failure")
        response = await service.client.request("GET", "/v1/models")
    assert (response.status, response.headers["x-should-retry"]) == (500, "false")


async def test_an_answer_says_what_version_and_weights_made_it(door: Door) -> None:
    bodies: dict[str, dict[str, object]] = {
        "/v1/completions": {"prompt": "hello"},
        "/v1/chat/completions": {"messages": MESSAGES},
    }
    async with by_hand(door) as service:
        for path, body in bodies.items():
            whole = await service.client.request("POST", path, json.dumps(body).encode(), JSON)
            stream = await service.client.request("POST", path, json.dumps(body | {"stream": True}).encode(), JSON)
            answers = [whole.json(), *events_of(stream.body)]
            assert {answer["system_fingerprint"] for answer in answers} == {Config().fingerprint}


async def test_more_choices_than_there_ever_is_room_for_are_not_to_be_tried_again(door: Door) -> None:
    body = json.dumps({"messages": MESSAGES, "n": 4}).encode()
    async with by_hand(door, config=Config(max_streams=1, max_waiting=2)) as service:
        response = await service.client.request("POST", "/v1/chat/completions", body, JSON)
    assert response.status == 400
    assert response.json()["error"]["param"] == "n"
    assert "retry-after" not in response.headers
