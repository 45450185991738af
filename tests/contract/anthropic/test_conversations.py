"""Conversations and tools of the Messages API, as its newer clients send them, become what templates know."""

import json
from itertools import chain
from typing import Any, get_args, get_type_hints

import pytest
from anthropic.types import ThinkingConfigParam

import contract
from contract.conversation import thinking_switches
from interface.events import Finished, Token
from tests.support.anthropic_requests import parsed, prompt_of, refused

USER = {"role": "user", "content": "hello"}
BRIEF = {"role": "system", "content": "Be brief."}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
TYPES_OF_THINKING = [get_type_hints(param)["type"] for param in get_args(ThinkingConfigParam)]
CALL = {"type": "tool_use", "id": "1", "name": "add", "input": {}}


def said_by_assistant(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def roles_and_texts(*messages: dict[str, Any]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in prompt_of(messages=list(messages)).messages]


@pytest.mark.parametrize("kind", [*chain.from_iterable(map(get_args, TYPES_OF_THINKING))])
def test_each_kind_of_thinking_turns_reasoning_on_or_off(kind: str) -> None:
    wanted = kind in ("enabled", "adaptive")
    assert prompt_of(thinking={"type": kind}).template_arguments == thinking_switches(wanted)


def test_a_system_message_may_hold_until_the_next_of_the_user() -> None:
    once = {**BRIEF, "clear_at": "next_user_message"}
    answer = {"role": "assistant", "content": "Hi."}
    assert roles_and_texts(USER, once) == [("user", "hello"), ("system", "Be brief.")]
    assert roles_and_texts(USER, once, answer)[1] == ("system", "Be brief.")
    assert roles_and_texts(USER, once, answer, USER) == [("user", "hello"), ("assistant", "Hi."), ("user", "hello")]
    always = {**BRIEF, "clear_at": "never"}
    assert len(roles_and_texts(USER, always, answer, USER)) == 4


def test_the_last_effort_counts_and_its_message_needs_no_content() -> None:
    low, high = ({"role": "system", "output_config": {"effort": effort}} for effort in ("low", "high"))
    prompt = prompt_of(messages=[USER, low, high], output_config={"effort": "max"})
    assert prompt.template_arguments == {"reasoning_effort": "high"}
    assert prompt.messages == [USER]


@pytest.mark.parametrize("message", [{"role": "user"}, {"role": "assistant"}, {"role": "system"}])
def test_other_messages_need_content(message: dict[str, Any]) -> None:
    status, error = refused(messages=[USER, message])
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert "messages.1.content" in error["message"]


def test_what_the_assistant_says_in_turn_is_one_message() -> None:
    assert roles_and_texts(USER, said_by_assistant(text("a")), said_by_assistant(text("b")), USER) == [
        ("user", "hello"),
        ("assistant", "a\n\nb"),
        ("user", "hello"),
    ]
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    messages = [USER, said_by_assistant(thought), said_by_assistant(text("a")), *[said_by_assistant(CALL)] * 2]
    (_, turn) = prompt_of(messages=messages).messages
    assert (turn["reasoning_content"], turn["content"], len(turn["tool_calls"])) == ("hm", "a", 2)


def test_a_text_after_calls_is_a_message_of_its_own() -> None:
    messages = [USER, said_by_assistant(CALL), said_by_assistant(text("a"))]
    assert [message["content"] for message in prompt_of(messages=messages).messages] == ["hello", "", "a"]


def test_the_model_is_told_that_a_tool_failed() -> None:
    def result(**fields: Any) -> Any:
        block = {"type": "tool_result", "tool_use_id": "1", "content": "No such file.", **fields}
        messages = [USER, said_by_assistant(CALL), {"role": "user", "content": [block]}]
        return prompt_of(messages=messages).messages[2]["content"]

    assert result(is_error=True) == "Error: No such file."
    assert result(is_error=False) == result(is_error=None) == result() == "No such file."
    assert result(content=None) == ""
    assert result(content=[{"type": "tool_reference", "tool_name": "add"}]) == "add"


def test_the_state_of_a_browser_in_a_result_is_shown_as_text() -> None:
    state = {"type": "browser_state", "tabs": [{"title": "Nüsse"}], "cache_control": None}
    block = {"type": "tool_result", "tool_use_id": "1", "content": [state, text("Clicked.")]}
    shown = prompt_of(messages=[USER, said_by_assistant(CALL), {"role": "user", "content": [block]}]).messages[2]
    assert shown["content"] == '{"tabs": [{"title": "Nüsse"}]}\nClicked.'


def test_tools_that_run_on_servers_of_anthropic_are_left_out() -> None:
    own = {"name": "add", "input_schema": {"type": "object"}}
    for other in (
        SEARCH,
        {**SEARCH, "input_schema": None},
        {"type": "mcp_toolset", "mcp_server_name": "a"},
        {"type": "browser_toolset_20260801"},
    ):
        prompt = prompt_of(tools=[other, own])
        assert [tool["function"]["name"] for tool in prompt.tools or ()] == ["add"]
    assert prompt_of(tools=[SEARCH]).tools is None


def test_null_in_a_schema_of_a_tool_means_absent_as_in_anthropics_own_types() -> None:
    tool = {"name": "now", "input_schema": {"type": "object", "properties": None, "required": None}}
    [offered] = prompt_of(tools=[tool]).tools or ()
    assert offered["function"]["parameters"] == {"type": "object"}


@pytest.mark.parametrize(
    "block",
    [
        {"type": "redacted_thinking", "data": "x"},
        {"type": "server_tool_use", "id": "1", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "1", "content": []},
        {"type": "mcp_tool_use", "id": "1", "name": "x", "server_name": "y", "input": {}},
        {"type": "mcp_tool_result", "tool_use_id": "1", "content": []},
    ],
)
def test_a_conversation_that_was_begun_at_anthropic_goes_on(block: dict[str, Any]) -> None:
    assert roles_and_texts(USER, said_by_assistant(block, text("a")), USER) == [
        ("user", "hello"),
        ("assistant", "a"),
        ("user", "hello"),
    ]


def test_a_summary_of_the_conversation_is_text() -> None:
    summary = {"type": "compaction", "content": "So far: b. "}
    assert roles_and_texts(said_by_assistant(summary, text("a")), USER)[0] == ("assistant", "So far: b. a")


@pytest.mark.parametrize(
    ("type", "name", "calls"),
    [
        ("bash_20250124", "bash", [{"command": "ls"}, {"restart": True}]),
        ("text_editor_20250728", "str_replace_based_edit_tool", [{"command": "view", "path": "a"}]),
        ("memory_20250818", "memory", [{"command": "rename", "old_path": "a", "new_path": "b"}]),
    ],
)
def test_tools_that_the_client_runs_are_offered_with_their_parameters(type: str, name: str, calls: Any) -> None:
    prompt = prompt_of(tools=[{"type": type, "name": name}], tool_choice={"type": "tool", "name": name})
    assert prompt.tools is not None
    function = prompt.tools[0]["function"]
    assert (prompt.named_tool, function["name"]) == (name, name)
    for call in calls:
        assert set(call) <= set(function["parameters"]["properties"])
        assert set(function["parameters"]["required"]) <= set(call)
        assert call.get("command") in function["parameters"]["properties"]["command"].get("enum", [call.get("command")])


def test_a_top_p_of_zero_keeps_only_the_most_likely_token() -> None:
    assert 0 < parsed(top_p=0).requests[0].params.top_p < 1e-6
    assert "top_p" in refused(top_p=-0.1)[1]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_no_tokens_only_fill_the_cache(stream: bool) -> None:
    call = parsed(max_tokens=0, stream=stream)
    assert call.requests[0].params.max_tokens == 1
    accepted = contract.Accepted("an-id", [9])
    events: list[Any] = [Token("4", 1, 1.0, True), Finished("stop", 9, 1, 1, 1, 2, stop_reason="4")]
    if stream:
        writer = call.writer(accepted)
        wire = writer.start() + b"".join(map(writer.event, events)) + writer.end()
        assert b"content_block" not in wire
        ends = json.loads(wire.split(b"data: ")[2].partition(b"\n")[0])
        assert (ends["delta"]["stop_reason"], ends["usage"]["output_tokens"]) == ("max_tokens", 0)
    else:
        message = json.loads(call.answer(accepted, events).body)
        assert (message["content"], message["stop_reason"], message["stop_sequence"]) == ([], "max_tokens", None)
        assert message["usage"]["output_tokens"] == 0
