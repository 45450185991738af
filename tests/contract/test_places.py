"""A refusal names the place of what is wrong as the client wrote it, whatever the server leaves out or reads apart."""

from typing import Any

import pytest

from tests.support.openai_answers import MESSAGES, refused

NUMBER = {"type": "number"}
FLAT = {"type": "function", "name": "f"}
MORE = {"type": "additional_tools", "tools": [FLAT | {"parameters": NUMBER}]}
SEARCH = {"type": "web_search"}
CHAT, RESPONSES, MESSAGES_PATH = "/v1/chat/completions", "/v1/responses", "/v1/messages"


def namespace(**fields: Any) -> dict[str, Any]:
    return {"type": "namespace", "name": "crm", "tools": [FLAT, FLAT | fields]}


def anthropic_tools(**fields: Any) -> dict[str, Any]:
    tools = [{"type": "web_search_20250305", "name": "web_search"}, {"name": "f", **fields}]
    return {"messages": MESSAGES, "max_tokens": 9, "tools": tools}


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        (CHAT, {"tools": [{"type": "function", "function": {"name": "f", "parameters": NUMBER}}]}, "tools.0.function"),
        (CHAT, {"functions": [{"name": "f"}, {"name": "g", "parameters": NUMBER}]}, "functions.1"),
        (RESPONSES, {"tools": [SEARCH, FLAT, FLAT | {"parameters": NUMBER}]}, "tools.2"),
        (RESPONSES, {"tools": [namespace(), namespace(parameters=NUMBER)]}, "tools.1.tools.1"),
        (RESPONSES, {"input": [MORE]}, "input.0.tools.0"),
    ],
)
def test_the_parameters_of_a_tool_are_named_where_they_are(path: str, body: dict[str, Any], place: str) -> None:
    base = {"messages": MESSAGES} if path == CHAT else {"input": "hi"}
    error = refused(path, **base | body)
    assert error["param"] == f"{place}.parameters"
    assert error["message"].startswith(f"{place}.parameters: Expected a schema of type 'object'")


@pytest.mark.parametrize(
    ("tool", "place"),
    [
        ({"type": "function"}, "tools.1.name"),
        (namespace(strict="yes"), "tools.1.tools.1.strict"),
        (namespace() | {"description": 5}, "tools.1.description"),
        (namespace() | {"tools": [5]}, "tools.1.tools.0"),
        (namespace() | {"tools": [{}]}, "tools.1.tools.0.type"),
        ("f", "tools.1"),
    ],
)
def test_a_wrong_tool_is_named_with_those_that_are_left_out(tool: Any, place: str) -> None:
    error = refused(RESPONSES, input="hi", tools=[SEARCH, tool])
    assert (error["param"], error["message"].partition(":")[0]) == (place, place)


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({}, "tools.1.input_schema"),
        ({"input_schema": NUMBER}, "tools.1.input_schema"),
        ({"input_schema": 5}, "tools.1.input_schema"),
        ({"name": ""}, "tools.1.name"),
    ],
)
def test_a_tool_of_a_messages_request_is_named_where_it_is(fields: dict[str, Any], place: str) -> None:
    assert refused(MESSAGES_PATH, **anthropic_tools(**fields))["message"].startswith(f"{place}: ")


def result(**fields: Any) -> dict[str, Any]:
    block = {"type": "tool_result", "tool_use_id": "1", **fields}
    return {"max_tokens": 9, "messages": [{"role": "user", "content": [block]}]}


def said(role: str, block: dict[str, Any]) -> dict[str, Any]:
    return {"max_tokens": 9, "messages": [*MESSAGES, {"role": role, "content": [block]}]}


def custom(**format: Any) -> dict[str, Any]:
    return {"messages": MESSAGES, "tools": [{"type": "custom", "custom": {"name": "g", "format": format}}]}


def flat_custom(**format: Any) -> dict[str, Any]:
    return {"input": "hi", "tools": [{"type": "custom", "name": "g", "format": format}]}


def shell(*commands: Any) -> dict[str, Any]:
    return {"input": [{"type": "shell_call", "call_id": "1", "action": {"commands": commands}}]}


def patched(output: Any) -> dict[str, Any]:
    return {"input": [{"type": "apply_patch_call_output", "call_id": "1", "output": output}]}


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        (MESSAGES_PATH, {"messages": MESSAGES, "max_tokens": 9, "tools": [None]}, "tools.0"),
        (MESSAGES_PATH, {"messages": MESSAGES, "max_tokens": 9, "tools": [{"name": "f"}, 5]}, "tools.1"),
        (MESSAGES_PATH, result(is_error="true"), "messages.0.content.0.is_error"),
        (MESSAGES_PATH, result(is_error=1), "messages.0.content.0.is_error"),
        (MESSAGES_PATH, result(content=0), "messages.0.content.0.content"),
        (MESSAGES_PATH, result(content={}), "messages.0.content.0.content"),
        (MESSAGES_PATH, result(content=[None]), "messages.0.content.0.content.0"),
        (MESSAGES_PATH, said("assistant", {"type": "compaction", "content": ["a"]}), "messages.1.content.0"),
        (
            MESSAGES_PATH,
            said("assistant", {"type": "compaction", "content": "a", "tool_changes": [None]}),
            "messages.1.content.0.tool_changes.0",
        ),
        (MESSAGES_PATH, said("system", {"type": "tool_addition", "tool": None}), "messages.1.content.0"),
        (CHAT, custom(type="regex"), "tools.0.custom.format.type"),
        (CHAT, custom(type="grammar"), "tools.0.custom.format"),
        (CHAT, custom(grammar={"syntax": "regex", "definition": 5}), "tools.0.custom.format.grammar.definition"),
        (CHAT, custom(grammar=[None]), "tools.0.custom.format.grammar"),
        (RESPONSES, flat_custom(type="grammar", syntax="ebnf", definition="a"), "tools.0.format.syntax"),
        (RESPONSES, {"input": "hi", "tools": [{"type": 5}]}, "tools.0"),
        (RESPONSES, {"input": "hi", "tools": [SEARCH, {"type": None, "name": "f"}]}, "tools.1"),
        (RESPONSES, shell("ls", None), "input.0.action"),
        (RESPONSES, patched(0), "input.0.output"),
        (RESPONSES, patched([None]), "input.0.output.0"),
    ],
)
def test_what_has_a_wrong_type_within_a_list_is_refused_by_its_place(
    path: str, body: dict[str, Any], place: str
) -> None:
    assert refused(path, **body)["message"].startswith(f"{place}: ")


@pytest.mark.parametrize("name", ["", "g"])
def test_allowed_tools_that_are_not_offered_are_refused(name: str) -> None:
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": name}]}
    for path, body in ((RESPONSES, {"input": "hi"}), (CHAT, {"messages": MESSAGES})):
        assert refused(path, **body, tool_choice=choice)["param"] == "tool_choice"


def test_a_schema_with_a_number_that_json_has_not_is_named() -> None:
    schema = {"type": "object", "properties": {"x": {"minimum": float("nan")}}}
    format = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    assert refused(CHAT, messages=MESSAGES, response_format=format)["param"] == "response_format.json_schema.schema"
