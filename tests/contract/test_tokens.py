"""The tokenizer's endpoints: what they ask of the engine's lexicon, and what they answer."""

import json
from typing import Any

import pytest

from tests.support.asgi_client import JSON
from tests.support.serving import Door, by_hand

pytestmark = pytest.mark.anyio


async def ask(door: Door, path: str, content: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    async with by_hand(door) as service:
        method = "GET" if content is None else "POST"
        response = await service.client.request(method, path, json.dumps(content or {}).encode(), JSON)
        return response.status, response.json()


async def test_a_text_is_tokenized(door: Door) -> None:
    status, answer = await ask(door, "/tokenize", {"prompt": "one two three"})
    assert (status, answer["tokens"], answer["count"]) == (200, [0, 1, 2], 3)
    assert answer["max_model_len"] == 4096
    assert answer["token_strs"] is None


async def test_a_conversation_is_tokenized_with_its_tokens_texts(door: Door) -> None:
    body = {"messages": [{"role": "user", "content": "one two"}], "return_token_strs": True}
    status, answer = await ask(door, "/tokenize", body)
    assert (status, answer["token_strs"]) == (200, ["one", "two"])


async def test_token_ids_are_turned_into_text(door: Door) -> None:
    assert await ask(door, "/detokenize", {"tokens": [5, 6]}) == (200, {"prompt": "5 6"})


async def test_the_tokenizer_says_what_it_is(door: Door) -> None:
    status, answer = await ask(door, "/tokenizer_info")
    assert (status, answer["tokenizer_class"]) == (200, "Scripted")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}),
        ("/tokenize", {"prompt": 1}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": "x"}),
    ],
)
async def test_a_wrong_body_is_400(door: Door, path: str, body: dict[str, Any]) -> None:
    status, _ = await ask(door, path, body)
    assert status == 400


async def test_an_unknown_model_is_404_and_the_served_ones_are_named(door: Door) -> None:
    status, answer = await ask(door, "/tokenize", {"prompt": "x", "model": "other"})
    assert status == 404
    assert "bundled_model" in json.dumps(answer)
