"""Namespaces of `/v1/responses` group tools: a model calls them by longer names, and clients see their own."""

from typing import Any

import pytest

from interface.events import ToolCallPart
from tests.support.openai_answers import named_events, parse, parsed_tokens, refused, streamed, whole

GET = {"type": "function", "name": "get", "description": "Finds one.", "parameters": {"type": "object"}}
NOTE = {"type": "custom", "name": "note"}
CRM = {"type": "namespace", "name": "crm", "description": "Customers.", "tools": [GET, NOTE]}
SHOP = {"type": "namespace", "name": "shop", "description": "Orders.", "tools": [GET]}
ADD = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": None}
TOOLS = [ADD, CRM, {"type": "tool_search"}, SHOP]


def call(**body: Any) -> Any:
    return parse("/v1/responses", **{"input": "hi", "tools": TOOLS} | body)


def offered(**body: Any) -> list[str]:
    return [tool["function"]["name"] for tool in call(**body).requests[0].prompt.tools or ()]


def test_a_model_is_offered_each_tool_of_a_namespace() -> None:
    assert offered() == ["add", "crm__get", "crm__note", "shop__get"]
    _, get, note, _ = call().requests[0].prompt.tools
    assert get["function"]["description"] == "Customers.\n\nFinds one."
    assert note["function"]["parameters"]["required"] == ["input"]


@pytest.mark.parametrize(
    ("called", "arguments", "type", "name", "namespace"),
    [
        ("add", "{}", "function_call", "add", None),
        ("crm__get", "{}", "function_call", "get", "crm"),
        ("shop__get", "{}", "function_call", "get", "shop"),
        ("crm__note", '{"input": "x"}', "custom_tool_call", "note", "crm"),
    ],
)
def test_clients_see_the_name_and_the_namespace(
    called: str, arguments: str, type: str, name: str, namespace: str | None
) -> None:
    parts = parsed_tokens([(ToolCallPart(called, arguments),)])
    answer = whole(call(), parts)
    (item,) = answer["output"]
    assert (item["type"], item["name"], item.get("namespace")) == (type, name, namespace)
    shown = {**GET, "strict": None}
    assert answer["tools"] == [ADD, {**CRM, "tools": [shown, NOTE]}, {**SHOP, "tools": [shown]}]
    events = named_events(streamed(call(), parts))
    announced = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    assert [(item["name"], item.get("namespace")) for item in announced] == [(name, namespace)]


def test_a_call_comes_back_by_the_name_that_the_model_knows() -> None:
    items = [
        {"role": "user", "content": "Find her."},
        {"type": "function_call", "call_id": "1", "namespace": "crm", "name": "get", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "2", "namespace": "crm", "name": "note", "input": "x"},
        {"type": "function_call_output", "call_id": "1", "output": "Ada"},
    ]
    _, turn, _ = call(input=items).requests[0].prompt.messages
    assert [tool_call["function"]["name"] for tool_call in turn["tool_calls"]] == ["crm__get", "crm__note"]
    items[1]["namespace"] = 5  # type: ignore[assignment]
    assert refused("/v1/responses", input=items)["param"] == "input.1.namespace"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "function", "name": "get"}, (["add", "crm__get", "crm__note", "shop__get"], "crm__get")),
        ({"type": "function", "name": "shop__get"}, (["add", "crm__get", "crm__note", "shop__get"], "shop__get")),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "namespace", "name": "crm"}]},
            (["crm__get", "crm__note"], None),
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "web_search"}, ADD]},
            (["add"], None),
        ),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp", "server_label": "a"}]}, ([], None)),
    ],
)
def test_a_tool_of_a_namespace_may_be_chosen(choice: dict[str, Any], expected: tuple[list[str], str | None]) -> None:
    made = call(tool_choice=choice)
    prompt = made.requests[0].prompt
    assert ([tool["function"]["name"] for tool in prompt.tools or ()], prompt.named_tool) == expected
    shown = whole(made, parsed_tokens([]))["tool_choice"]
    assert shown["type"] == choice["type"]


def test_a_namespace_without_tools_is_refused_by_name() -> None:
    assert (
        refused("/v1/responses", input="hi", tools=[{"type": "namespace", "name": "crm"}])["param"] == "tools.0.tools"
    )
