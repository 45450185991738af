"""Custom tools of `/v1/chat/completions`: the model calls functions of one text, and clients see the text."""

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from interface.events import ArgumentsPart, Part, ToolCallPart
from tests.support.openai_answers import MESSAGES, chunks, parse, parsed_tokens, refused, whole

PATH = "/v1/chat/completions"
GRAMMAR = {"syntax": "regex", "definition": "[a-z]+;"}
SQL = {"type": "custom", "custom": {"name": "sql", "format": {"type": "grammar", "grammar": GRAMMAR}}}
NOTE = {"type": "custom", "custom": {"name": "note", "description": "Takes notes."}}
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALLED: list[tuple[Part, ...]] = [
    (ToolCallPart("note", '{"input', is_whole=False),),
    (ArgumentsPart('": "a'),),
    (ArgumentsPart('b"}'),),
    (ToolCallPart("add", "{}"),),
]


def call(**body: Any) -> Any:
    return parse(PATH, **{"messages": MESSAGES, "tools": [SQL, NOTE, ADD]} | body)


def test_a_model_is_offered_functions_of_one_text() -> None:
    sql, note, add = [tool["function"] for tool in call().requests[0].prompt.tools]
    assert (sql["strict"], sql["parameters"]["properties"]["input"]["pattern"]) == (True, "^(?:[a-z]+;)$")
    assert "[a-z]+;" in sql["description"]
    assert (note["description"], note["parameters"]["required"]) == ("Takes notes.", ["input"])
    assert add["name"] == "add"


@pytest.mark.parametrize(
    ("choice", "named", "offered"),
    [
        ({"type": "custom", "custom": {"name": "note"}}, "note", 3),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NOTE]}}, None, 1),
    ],
)
def test_a_custom_tool_may_be_chosen(choice: dict[str, Any], named: str | None, offered: int) -> None:
    prompt = call(tool_choice=choice).requests[0].prompt
    assert (prompt.named_tool, len(prompt.tools)) == (named, offered)


def test_clients_see_the_text_of_a_call() -> None:
    answer = whole(call(), parsed_tokens(CALLED))
    ChatCompletion.model_validate_json(json.dumps(answer), strict=True)
    (choice,) = answer["choices"]
    note, add = choice["message"]["tool_calls"]
    assert (note["type"], note["custom"]) == ("custom", {"name": "note", "input": "ab"})
    assert (add["type"], choice["finish_reason"]) == ("function", "tool_calls")


def test_a_stream_has_the_text_as_it_is_made() -> None:
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks(call(), parsed_tokens(CALLED))]
    role, first, second, third, fourth, end = deltas
    assert (role["role"], end) == ("assistant", {})
    (begun,) = first["tool_calls"]
    assert (begun["index"], begun["type"], begun["custom"]) == (0, "custom", {"name": "note", "input": ""})
    assert [delta["tool_calls"] for delta in (second, third)] == [
        [{"index": 0, "custom": {"input": "a"}}],
        [{"index": 0, "custom": {"input": "b"}}],
    ]
    assert fourth["tool_calls"][0]["function"] == {"name": "add", "arguments": "{}"}


def test_a_call_comes_back_in_the_next_request() -> None:
    called = {"id": "call_1", "type": "custom", "custom": {"name": "note", "input": "a b"}}
    messages = [*MESSAGES, {"role": "assistant", "tool_calls": [called]}]
    shown = call(messages=messages).requests[0].prompt.messages[-1]["tool_calls"][0]
    assert (shown["id"], shown["function"]) == ("call_1", {"name": "note", "arguments": {"input": "a b"}})


def test_a_custom_tool_without_a_description_is_refused_by_name() -> None:
    assert refused(PATH, messages=MESSAGES, tools=[{"type": "custom"}])["param"] == "tools.0.custom"
    messages = [*MESSAGES, {"role": "assistant", "tool_calls": [{"type": "custom"}]}]
    assert refused(PATH, messages=messages)["param"] == "messages.1.tool_calls.0.custom"
