"""Custom tools of `/v1/responses`: a model calls them as functions of one text, and clients see the text."""

import json
from typing import Any

import pytest

from contract.openai.custom_tools import InputReader
from interface.events import ArgumentsPart, Part, ToolCallPart
from tests.support.openai_answers import FINISHED, named_events, parse, parsed_tokens, streamed, whole

PATCH = {
    "type": "custom",
    "name": "patch",
    "description": "Changes files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin" /(.|\\n)*/'},
}
ADD = {"type": "function", "name": "add", "parameters": {"type": "object"}}
TEXT = '*** Begin\n-"a"\n+é\\n'


def call(**body: Any) -> Any:
    return parse("/v1/responses", **{"input": "hi", "tools": [PATCH, ADD]} | body)


def pieces(text: str) -> list[tuple[Part, ...]]:
    """A call that comes in three pieces."""
    third = len(text) // 3
    first = ToolCallPart("patch", text[:third], is_whole=False)
    return [(first,), (ArgumentsPart(text[third : 2 * third]),), (ArgumentsPart(text[2 * third :]),)]


def test_a_model_is_offered_a_function_of_one_text_and_shown_the_format() -> None:
    patch, add = call().requests[0].prompt.tools
    assert patch["function"]["parameters"] == {
        "type": "object",
        "properties": {"input": {"type": "string", "pattern": r"^(?:\*\*\* Begin(?:(.|\n)*))$"}},
        "required": ["input"],
        "additionalProperties": False,
    }
    assert patch["function"]["description"].startswith("Changes files.\n\nThe input must match this grammar (lark):\n")
    assert patch["function"]["description"].endswith(PATCH["format"]["definition"])  # type: ignore[index]
    assert add["function"]["name"] == "add"
    (plain,) = call(tools=[{"type": "custom", "name": "note"}]).requests[0].prompt.tools
    assert "description" not in plain["function"]


@pytest.mark.parametrize("is_cut", [True, False])
def test_clients_see_the_text_of_a_call(is_cut: bool) -> None:
    arguments = json.dumps({"input": TEXT})
    whole_parts: list[tuple[Part, ...]] = [(ToolCallPart("patch", arguments),)]
    answer = whole(call(), parsed_tokens(pieces(arguments) if is_cut else whole_parts))
    (item,) = answer["output"]
    assert item["id"].startswith("ctc_")
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "patch", TEXT)
    assert (item["status"], item["call_id"][:5]) == ("completed", "call_")
    assert answer["tools"] == [PATCH, {**ADD, "strict": None}]


def test_a_stream_has_the_text_as_it_is_made() -> None:
    events = named_events(streamed(call(), parsed_tokens(pieces(json.dumps({"input": TEXT})))))
    deltas = [event["delta"] for event in events if event["type"] == "response.custom_tool_call_input.delta"]
    assert [event["type"].removeprefix("response.") for event in events if "delta" not in event] == [
        "created",
        "in_progress",
        "output_item.added",
        "custom_tool_call_input.done",
        "output_item.done",
        "completed",
    ]
    assert (events[2]["item"]["input"], events[-3]["input"]) == ("", TEXT)
    assert len(deltas) == 3
    assert "".join(deltas) == TEXT


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (json.dumps({"input": TEXT}), TEXT),
        (json.dumps({"input": "\N{GRINNING FACE}" + chr(92) + "ud83d"}), "\N{GRINNING FACE}" + chr(92) + "ud83d"),
        ('{"input": "a line\nand a half: \\ud83d"}', "a line\nand a half: \N{REPLACEMENT CHARACTER}"),
        ('{ "why": 1, "input" : "\\u00e9"}', "\N{LATIN SMALL LETTER E WITH ACUTE}"),
        ('{"input": "no end\\', "no end"),
        ('{"input": "cut \\ud83d', "cut "),
        ('{"text": "x"}', ""),
        ('{"text": "' + "x" * 1100 + '", "input": "y"}', ""),
        ('{"input": "\\d+"}', "\\d+"),
    ],
)
def test_an_input_is_read_the_same_in_pieces_of_any_length(arguments: str, text: str) -> None:
    for length in range(1, len(arguments) + 1):
        reader = InputReader()
        read = [reader.feed(arguments[start : start + length]) for start in range(0, len(arguments), length)]
        assert ("".join(read), reader.text) == (text, text)


def test_a_regular_expression_is_enforced() -> None:
    format = {"type": "grammar", "syntax": "regex", "definition": "a|b"}
    (tool,) = call(tools=[{**PATCH, "format": format}]).requests[0].prompt.tools
    assert tool["function"]["strict"] is True
    assert tool["function"]["parameters"]["properties"] == {"input": {"type": "string", "pattern": "^(?:a|b)$"}}


def test_a_call_that_is_cut_off_has_the_text_so_far_and_is_incomplete() -> None:
    begun: list[tuple[Part, ...]] = [(ToolCallPart("patch", '{"input": "*** Be', is_whole=False),)]
    (item,) = whole(call(), parsed_tokens(begun))["output"]
    assert (item["input"], item["status"]) == ("*** Be", "incomplete")
    (item,) = whole(call(), [*parsed_tokens([(ToolCallPart("patch", "", is_whole=False),)])[:-1], FINISHED])["output"]
    assert (item["input"], item["status"]) == ("", "incomplete")


def test_a_call_and_its_output_come_back_in_the_next_request() -> None:
    items = [
        {"role": "user", "content": "Mend it."},
        {"type": "custom_tool_call", "id": "ctc_1", "call_id": "call_1", "name": "patch", "input": TEXT},
        {"type": "custom_tool_call_output", "call_id": "call_1", "output": "Done."},
    ]
    _, called, result = call(input=items).requests[0].prompt.messages
    assert called["tool_calls"][0]["function"] == {"name": "patch", "arguments": {"input": TEXT}}
    assert result == {"role": "tool", "tool_call_id": "call_1", "content": "Done."}


@pytest.mark.parametrize(
    ("choice", "shown"),
    [
        ({"type": "custom", "name": "patch"}, {"type": "custom", "name": "patch"}),
        ({"type": "function", "name": "add"}, {"type": "function", "name": "add"}),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "patch"}]},
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "patch"}]},
        ),
    ],
)
def test_a_custom_tool_may_be_chosen(choice: dict[str, Any], shown: dict[str, Any]) -> None:
    made = call(tool_choice=choice)
    assert made.requests[0].prompt.tools[0]["function"]["name"] == "patch"
    assert whole(made, parsed_tokens([]))["tool_choice"] == shown
