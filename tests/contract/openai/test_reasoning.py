"""Reasoning in `/v1/responses`, for clients that send back only what looks encrypted."""

import json
from typing import Any

import pytest
from openai.types.responses import Response

from interface.events import Part, TextPart
from tests.support.openai_answers import named_events, parse, parsed_tokens, streamed, whole

PATH = "/v1/responses"
INCLUDE = ["reasoning.encrypted_content"]
PARTS: list[tuple[Part, ...]] = [
    (TextPart("reasoning", "h"),),
    (TextPart("reasoning", "m"),),
    (TextPart("content", "4"),),
]


def call(**body: Any) -> Any:
    return parse(PATH, **{"input": "hi", "store": False} | body)


def test_reasoning_is_repeated_if_a_request_includes_it() -> None:
    answer = whole(call(include=INCLUDE), parsed_tokens(PARTS))
    Response.model_validate_json(json.dumps(answer), strict=True)
    assert answer["output"][0]["encrypted_content"] == "reasoning:hm"
    assert "encrypted_content" not in whole(call(), parsed_tokens(PARTS))["output"][0]


def test_a_stream_repeats_it_when_it_is_whole() -> None:
    events = named_events(streamed(call(include=INCLUDE), parsed_tokens(PARTS)))
    items = [event["item"] for event in events if event["type"].startswith("response.output_item")]
    assert ["encrypted_content" in item for item in items] == [False, True, False, False]


@pytest.mark.parametrize(
    ("item", "thought"),
    [
        ({"summary": [], "encrypted_content": "reasoning:hm"}, "hm"),
        ({"summary": [], "encrypted_content": "gAAAA"}, ""),
        ({"summary": [], "content": [{"type": "reasoning_text", "text": "ho"}], "encrypted_content": "x"}, "ho"),
    ],
)
def test_reasoning_that_comes_back_is_shown_to_the_model(item: dict[str, Any], thought: str) -> None:
    items = [{"type": "reasoning", **item}, {"role": "assistant", "content": "4"}, {"role": "user", "content": "Why?"}]
    assert call(input=items).requests[0].prompt.messages[0]["reasoning_content"] == thought
