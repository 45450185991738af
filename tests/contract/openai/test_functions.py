"""`functions` and `function_call`, the older form of tools in chat completions: one call, with names of its own."""

from typing import Any

import pytest

from interface.events import ArgumentsPart, Part, TextPart, ToolCallPart
from tests.support.openai_answers import MESSAGES, chunks, parse, parsed_tokens, refused, whole

PATH = "/v1/chat/completions"
ADD = {"name": "add", "description": "adds", "parameters": {"type": "object"}}
NOW = {"name": "now"}


def call(**body: Any) -> Any:
    return parse(PATH, **{"messages": MESSAGES, "functions": [ADD, NOW]} | body)


@pytest.mark.parametrize(
    ("choice", "mode", "name"),
    [(None, "auto", None), ("auto", "auto", None), ("none", "none", None), ({"name": "now"}, "auto", "now")],
)
def test_the_model_is_offered_functions_as_tools_and_calls_one_at_a_time(choice: Any, mode: str, name: Any) -> None:
    prompt = call(function_call=choice).requests[0].prompt
    assert prompt.tools[0] == {"type": "function", "function": ADD}
    assert (prompt.tool_choice, prompt.named_tool, prompt.parallel_tool_calls) == (mode, name, False)


@pytest.mark.parametrize(
    "parts",
    [
        [(ToolCallPart("add", '{"a": 1}'), ToolCallPart("now", "{}"))],
        [
            (ToolCallPart("add", "", is_whole=False), ArgumentsPart('{"a"')),
            (ArgumentsPart(": 1}"),),
            (ToolCallPart("now", "{}"),),
        ],
    ],
)
def test_clients_see_the_first_call_as_a_function_call(parts: list[tuple[Part, ...]]) -> None:
    function = {"name": "add", "arguments": '{"a": 1}'}
    (choice,) = whole(call(), parsed_tokens(parts))["choices"]
    message = {"role": "assistant", "content": None, "refusal": None, "function_call": function}
    assert (choice["message"], choice["finish_reason"]) == (message, "function_call")
    stream = chunks(call(stream=True), parsed_tokens(parts))
    deltas = [chunk["choices"][0]["delta"] for chunk in stream]
    pieces = [delta["function_call"] for delta in deltas if "function_call" in delta]
    assert {name: "".join(piece.get(name, "") for piece in pieces) for name in function} == function
    assert not any("tool_calls" in delta for delta in deltas)
    assert stream[-1]["choices"][0]["finish_reason"] == "function_call"


def test_an_answer_without_a_call_is_as_ever() -> None:
    (choice,) = whole(call(), parsed_tokens([(TextPart("content", "4"),)]))["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("4", "stop")
    assert "function_call" not in choice["message"]


def test_a_call_and_its_result_come_back_in_the_next_request() -> None:
    called = {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"a": 1}'}}
    result = {"role": "function", "name": "add", "content": "3"}
    _, turn, answer = call(messages=[*MESSAGES, called, result]).requests[0].prompt.messages
    assert turn["tool_calls"] == [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
    assert answer == {"role": "tool", "name": "add", "content": "3"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "function", "function": ADD}]}, "functions"),
        ({"functions": [{}]}, "functions.0.name"),
        ({"function_call": "always"}, "function_call"),
        ({"function_call": {"name": "other"}}, "function_call"),
        (
            {"messages": [{"role": "assistant", "function_call": {"name": "add", "arguments": [1]}}]},
            "messages.0.function_call.arguments",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    assert refused(PATH, **{"messages": MESSAGES, "functions": [ADD]} | body)["param"] == param
