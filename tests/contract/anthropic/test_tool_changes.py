"""Tools are added and removed in the middle of a conversation, and blocks of any type may be part of one."""

from typing import Any

import pytest
from anthropic.types.beta import BetaContentBlockParam, BetaToolUnionParam

from tests.support.anthropic_requests import prompt_of, refused
from tests.support.typed_samples import samples_of

HI = {"role": "user", "content": "hi"}
OF_USERS = ("image", "document", "search_result", "tool_result", "container_upload")
CHANGES = ("tool_addition", "tool_removal")


def tool(name: str, description: str = "") -> dict[str, Any]:
    return {"name": name, "description": description, "input_schema": {"type": "object"}}


def reference(name: str) -> dict[str, Any]:
    return {"type": "tool_reference", "name": name}


def added(definition: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": definition}}


def removed(name: str) -> dict[str, Any]:
    return {"type": "tool_removal", "tool": reference(name)}


def restored(name: str) -> dict[str, Any]:
    return {"type": "tool_addition", "tool": reference(name)}


def offered(*blocks: dict[str, Any], tools: Any = (), role: str = "system") -> list[tuple[str, str]]:
    prompt = prompt_of(messages=[HI, {"role": role, "content": list(blocks)}, HI], tools=list(tools))
    functions = [tool["function"] for tool in prompt.tools or ()]
    return [(function["name"], function["description"]) for function in functions]


def test_tools_are_added_replaced_removed_and_restored() -> None:
    both = [tool("a"), tool("b")]
    assert offered(added(tool("c")), tools=both) == [("a", ""), ("b", ""), ("c", "")]
    assert offered(added(tool("a", "new")), tools=both) == [("a", "new"), ("b", "")]
    assert offered(removed("a"), tools=both) == [("b", "")]
    assert offered(removed("a"), restored("a"), tools=both) == [("a", ""), ("b", "")]
    assert offered(removed("a"), added(tool("a", "new")), tools=both) == [("a", "new"), ("b", "")]


def test_changes_that_are_none_of_the_clients_tools_change_nothing() -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    assert offered(added(search), restored("web_search"), removed("other"), tools=[tool("a")]) == [("a", "")]


def test_a_summary_repeats_the_changes_before_it() -> None:
    summary = {"type": "compaction", "content": "So far.", "tool_changes": [added(tool("c")), removed("a")]}
    assert offered(summary, tools=[tool("a")], role="assistant") == [("c", "")]


def test_a_system_message_of_changes_says_nothing() -> None:
    messages = [HI, {"role": "system", "content": [removed("a"), {"type": "text", "text": "Be brief."}]}, HI]
    assert [message["content"] for message in prompt_of(messages=messages).messages] == ["hi", "Be brief.", "hi"]


def test_a_wrong_definition_is_refused_by_its_place() -> None:
    messages = [HI, {"role": "system", "content": [added({"input_schema": {}})]}]
    status, error = refused(messages=messages)
    assert status == 400
    assert error["message"].startswith("messages.1.content.0.tool.definition.name")


def blocks(*types: str, are_meant: bool) -> list[dict[str, Any]]:
    return [block for block in samples_of(BetaContentBlockParam) if (block["type"] in types) is are_meant]


@pytest.mark.parametrize("block", blocks(*OF_USERS, *CHANGES, are_meant=False), ids=lambda block: str(block["type"]))
def test_an_assistants_block_of_any_type_may_be_in_a_conversation(block: dict[str, Any]) -> None:
    prompt = prompt_of(messages=[HI, {"role": "assistant", "content": [block]}, HI])
    assert prompt.messages[0]["content"].startswith("hi")


@pytest.mark.parametrize("block", blocks(*OF_USERS, "text", are_meant=True), ids=lambda block: str(block["type"]))
def test_a_users_block_of_any_type_may_be_in_a_conversation(block: dict[str, Any]) -> None:
    prompt_of(messages=[{"role": "user", "content": [block]}, {"role": "assistant", "content": "Yes."}, HI])


@pytest.mark.parametrize("tool", [*samples_of(BetaToolUnionParam)], ids=lambda tool: str(tool.get("type")))
def test_a_tool_of_any_type_may_be_offered(tool: dict[str, Any]) -> None:
    prompt_of(tools=[tool], tool_choice={"type": "none"})
