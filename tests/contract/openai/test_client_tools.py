"""Tools of `/v1/responses` that OpenAI defines and clients run: shells, and an editor that applies patches."""

import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from interface.events import ArgumentsPart, Part, ToolCallPart
from tests.support.openai_answers import named_events, parse, parsed_tokens, refused, streamed, whole

PATH = "/v1/responses"
SHELL = {"type": "shell", "environment": {"type": "local"}}
LOCAL_SHELL = {"type": "local_shell"}
APPLY_PATCH = {"type": "apply_patch"}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
CALLS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("shell", {"commands": ["ls", "pwd"], "timeout_ms": 5}, "action", {"commands": ["ls", "pwd"], "timeout_ms": 5}),
    ("shell", {"commands": ["ls"], "note": "x"}, "action", {"commands": ["ls"]}),
    ("local_shell", {"command": ["ls"]}, "action", {"type": "exec", "command": ["ls"], "env": {}}),
    (
        "apply_patch",
        {"type": "create_file", "path": "a", "diff": "+b"},
        "operation",
        {"type": "create_file", "path": "a", "diff": "+b"},
    ),
    (
        "apply_patch",
        {"type": "delete_file", "path": "a", "diff": ""},
        "operation",
        {"type": "delete_file", "path": "a"},
    ),
]


def call(**body: Any) -> Any:
    return parse(PATH, **{"input": "hi", "tools": [SHELL, LOCAL_SHELL, APPLY_PATCH]} | body)


def pieces(name: str, arguments: str) -> list[tuple[Part, ...]]:
    return [(ToolCallPart(name, arguments[:5], is_whole=False),), (ArgumentsPart(arguments[5:]),)]


def test_a_model_is_offered_functions() -> None:
    prompt = call(tool_choice={"type": "apply_patch"}).requests[0].prompt
    assert [tool["function"]["name"] for tool in prompt.tools] == ["shell", "local_shell", "apply_patch"]
    assert [tool["function"]["parameters"]["required"] for tool in prompt.tools] == [
        ["commands"],
        ["command"],
        ["type", "path"],
    ]
    assert prompt.named_tool == "apply_patch"


def test_a_response_repeats_the_tools_and_the_choice() -> None:
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "shell"}]}
    answer = whole(call(tool_choice=allowed), parsed_tokens([]))
    assert (answer["tools"], answer["tool_choice"]) == ([SHELL, LOCAL_SHELL, APPLY_PATCH], allowed)
    chosen = whole(call(tool_choice=APPLY_PATCH), parsed_tokens([]))
    assert chosen["tool_choice"] == APPLY_PATCH


def test_a_shell_on_openais_servers_is_left_out() -> None:
    prompt = call(tools=[{"type": "shell", "environment": {"type": "container_auto"}}]).requests[0].prompt
    assert prompt.tools is None
    assert len(call(tools=[{"type": "shell"}]).requests[0].prompt.tools) == 1


@pytest.mark.parametrize(("name", "arguments", "field", "expected"), CALLS)
def test_a_call_is_an_item_of_its_own_type(
    name: str, arguments: dict[str, Any], field: str, expected: dict[str, Any]
) -> None:
    text = json.dumps(arguments)
    answer = whole(call(), parsed_tokens([(ToolCallPart(name, text),)]))
    Response.model_validate_json(json.dumps(answer), strict=True)
    (item,) = answer["output"]
    assert (item["type"], item["status"], item[field]) == (f"{name}_call", "completed", expected)
    events = named_events(streamed(call(), parsed_tokens(pieces(name, text))))
    for event in events:
        EVENT.validate_json(json.dumps(event), strict=True)
    assert [event["type"].removeprefix("response.") for event in events[2:]] == [
        "output_item.added",
        "output_item.done",
        "completed",
    ]
    added, done = (event["item"] for event in events[2:4])
    assert added == done | {"status": "in_progress"}
    assert [event["response"]["output"] for event in events[4:]] == [[done]]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("shell", '{"commands": "ls"}'),
        ("shell", '{"commands": ["l'),
        ("local_shell", "{}"),
        ("apply_patch", '{"type": "create_file", "path": "a"}'),
        ("apply_patch", "[]"),
    ],
)
def test_a_call_with_other_arguments_stays_a_function_call(name: str, arguments: str) -> None:
    events = named_events(streamed(call(), parsed_tokens(pieces(name, arguments))))
    assert [event["type"].removeprefix("response.") for event in events[2:]] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    item = events[-2]["item"]
    assert (item["type"], item["name"], item["arguments"]) == ("function_call", name, arguments)


@pytest.mark.parametrize(("name", "arguments", "field", "made"), CALLS[:1] + CALLS[2:4])
def test_a_call_comes_back_in_the_next_request(
    name: str, arguments: dict[str, Any], field: str, made: dict[str, Any]
) -> None:
    item = {"type": f"{name}_call", "id": "x", "call_id": "call_1", field: made, "status": "completed"}
    turn = call(input=[{"role": "user", "content": "hi"}, item]).requests[0].prompt.messages[-1]
    assert turn["tool_calls"][0]["id"] == "call_1"
    assert turn["tool_calls"][0]["function"] == {"name": name, "arguments": arguments}


EXITED = {"stdout": "a\n", "stderr": "b", "outcome": {"type": "exit", "exit_code": 2}}
TIMED_OUT = {"stdout": "", "stderr": "", "outcome": {"type": "timeout"}}


@pytest.mark.parametrize(
    ("item", "content"),
    [
        (
            {"type": "shell_call_output", "call_id": "1", "output": [EXITED, TIMED_OUT]},
            "a\n\nb\nExit code: 2\nTimed out.",
        ),
        ({"type": "local_shell_call_output", "id": "1", "output": "done"}, "done"),
        ({"type": "apply_patch_call_output", "call_id": "1", "status": "completed"}, ""),
        ({"type": "apply_patch_call_output", "call_id": "1", "status": "failed", "output": "no a"}, "Error: no a"),
    ],
)
def test_the_output_of_a_call_is_the_result_of_a_tool(item: dict[str, Any], content: str) -> None:
    result = call(input=[item]).requests[0].prompt.messages[-1]
    assert result == {"role": "tool", "tool_call_id": "1", "content": content}


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "shell_call", "action": {"commands": []}}, "input.0"),
        ({"type": "shell_call", "call_id": "1", "action": "ls"}, "input.0"),
        ({"type": "shell_call_output", "output": []}, "input.0.call_id"),
        ({"type": "shell_call_output", "call_id": "1", "output": 5}, "input.0.output"),
        ({"type": "shell_call_output", "call_id": "1", "output": [5]}, "input.0.output.0"),
    ],
)
def test_what_is_wrong_with_an_item_is_named(item: dict[str, Any], param: str) -> None:
    assert refused(PATH, input=[item])["param"] == param


def test_a_conversation_goes_on_after_a_call() -> None:
    first = whole(call(), parsed_tokens([(ToolCallPart("shell", '{"commands": ["ls"]}'),)]))
    call_id = first["output"][0]["call_id"]
    output = {"type": "shell_call_output", "call_id": call_id, "output": [EXITED]}
    second = call(input=[output], previous_response_id=first["id"])
    _, turn, result = second.requests[0].prompt.messages
    assert turn["tool_calls"][0]["id"] == result["tool_call_id"] == call_id
    third = whole(second, parsed_tokens([]))
    assert [item.get("type") for item in call(previous_response_id=third["id"]).items.all[1:4]] == [
        "shell_call",
        "shell_call_output",
        None,
    ]
