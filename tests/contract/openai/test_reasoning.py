"""Reasoning in `/v1/responses`, for clients that send back only what looks encrypted."""

import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from contract.conversation import history_switches
from interface.events import Part, TextPart
from tests.support.openai_answers import named_events, parse, parsed_tokens, refused, streamed, whole

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


@pytest.mark.parametrize("field", ["summary", "generate_summary"])
def test_reasoning_is_shown_as_its_summary_if_a_request_asks_for_one(field: str) -> None:
    answer = whole(call(reasoning={field: "auto"}, include=INCLUDE), parsed_tokens(PARTS))
    Response.model_validate_json(json.dumps(answer), strict=True)
    assert answer["reasoning"]["summary"] == "auto"
    assert answer["output"][0]["summary"] == [{"type": "summary_text", "text": "hm"}]
    assert (answer["output"][0]["content"], answer["output"][0]["encrypted_content"]) == ([], "reasoning:hm")


def test_a_stream_has_the_events_of_a_summary() -> None:
    events = named_events(streamed(call(reasoning={"summary": "auto"}), parsed_tokens(PARTS)))
    shown = [event for event in events if "reasoning" in event["type"]]
    for event in shown:
        TypeAdapter(ResponseStreamEvent).validate_json(json.dumps(event), strict=True)
    assert [event["type"].removeprefix("response.reasoning_") for event in shown] == [
        "summary_part.added",
        "summary_text.delta",
        "summary_text.delta",
        "summary_text.done",
        "summary_part.done",
    ]
    assert [event.get("delta") or event.get("text") or event["part"]["text"] for event in shown] == [
        "", "h", "m", "hm", "hm"
    ]  # fmt: skip


def test_no_summary_is_shown_where_none_is_asked_for() -> None:
    for reasoning in (None, {}, {"effort": "low"}, {"summary": None}, {"summary": "none"}):
        answer = whole(call(reasoning=reasoning), parsed_tokens(PARTS))
        assert (answer["reasoning"]["summary"], answer["output"][0]["summary"]) == (None, [])
    assert refused(PATH, input="hi", reasoning={"summary": "long"})["param"] == "reasoning.summary"


@pytest.mark.parametrize(
    ("item", "thought"),
    [
        ({"summary": [], "encrypted_content": "reasoning:hm"}, "hm"),
        ({"summary": [], "content": [{"type": "reasoning_text", "text": "ho"}], "encrypted_content": "x"}, "ho"),
    ],
)
def test_reasoning_that_comes_back_is_shown_to_the_model(item: dict[str, Any], thought: str) -> None:
    items = [{"type": "reasoning", **item}, {"role": "assistant", "content": "4"}, {"role": "user", "content": "Why?"}]
    assert call(input=items).requests[0].prompt.messages[0]["reasoning_content"] == thought


def test_reasoning_that_another_server_has_encrypted_is_none() -> None:
    encrypted = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}
    items = [encrypted, {"role": "assistant", "content": "4"}, {"role": "user", "content": "Why?"}]
    messages = call(input=items).requests[0].prompt.messages
    assert messages == [{"role": "assistant", "content": "4"}, {"role": "user", "content": "Why?"}]


def _thought(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [], "encrypted_content": f"reasoning:{text}"}


TURNS = [
    {"role": "user", "content": "2 + 2?"},
    _thought("early"),
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "Look it up."},
    _thought("late"),
    {"type": "function_call", "name": "look", "call_id": "1", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "1", "output": "4"},
]


@pytest.mark.parametrize(
    ("context", "shown", "switches"),
    [
        (None, ["early", "late"], {}),
        ("auto", ["early", "late"], {}),
        ("all_turns", ["early", "late"], history_switches(True)),
        ("current_turn", ["late"], history_switches(False)),
    ],
)
def test_a_request_says_which_reasoning_the_model_is_shown_again(
    context: str | None, shown: list[str], switches: dict[str, Any]
) -> None:
    prompt = call(input=TURNS, reasoning={"context": context}).requests[0].prompt
    assert [message["reasoning_content"] for message in prompt.messages if "reasoning_content" in message] == shown
    assert [message["role"] for message in prompt.messages] == ["user", "assistant", "user", "assistant", "tool"]
    assert prompt.template_arguments == switches


def test_a_context_of_another_name_is_refused() -> None:
    assert refused(PATH, input="hi", reasoning={"context": "no_turns"})["param"] == "reasoning.context"
