"""`POST /v1/responses`: bodies as requests to the engine, and events as items and events of the API."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from interface.events import ArgumentsPart, Failed, Logprobs, Part, TextPart, Token, TokenLogprob, ToolCallPart
from interface.requests import ChatPrompt, Grammar
from tests.support.answer_parts import ANSWERS, Tokens
from tests.support.openai_answers import (
    FINISHED,
    named_events,
    parse,
    parsed_tokens,
    refused,
    streamed,
    tokens,
    whole,
)

PATH = "/v1/responses"
ADD = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True}
CALL = ToolCallPart("add", '{"a": 1}')


def call(**body: Any) -> Any:
    return parse(PATH, **{"input": "hi"} | body)


def prompt_of(**body: Any) -> ChatPrompt:
    prompt = call(**body).requests[0].prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt


def without_ids(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in ("id", "call_id")}


# --- What is asked ----------------------------------------------------------------------------------------------------


def test_a_text_is_a_users_message_and_instructions_come_before_it() -> None:
    assert prompt_of(instructions="Be brief.").messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ]


def test_what_the_assistant_did_in_one_turn_becomes_one_message() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "1 + 2?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me add."}]},
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "add", "arguments": '{"a": 1}'},
        {"type": "function_call", "call_id": "call_2", "name": "now", "arguments": "", "status": "completed"},
        {"type": "function_call_output", "call_id": "call_1", "output": "3"},
        {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "noon"}]},
        {"role": "assistant", "content": "3 at noon"},
        {"role": "assistant", "content": "Anything else?"},
    ]
    calls = [
        {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}},
        {"id": "call_2", "type": "function", "function": {"name": "now", "arguments": {}}},
    ]
    assert prompt_of(input=items).messages == [
        {"role": "user", "content": "1 + 2?"},
        {"role": "assistant", "reasoning_content": "hm", "content": "Let me add.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_1", "content": "3"},
        {"role": "tool", "tool_call_id": "call_2", "content": "noon"},
        {"role": "assistant", "content": "3 at noon"},
        {"role": "assistant", "content": "Anything else?"},
    ]


@pytest.mark.parametrize("type", ["web_search_call", "mcp_list_tools", "tool_search_output"])
def test_a_conversation_that_was_begun_at_openai_goes_on(type: str) -> None:
    items = [{"role": "user", "content": "hi"}, {"type": type, "status": "completed"}]
    first = whole(parse(PATH, input=items), tokens(["yes"]))
    made = parse(PATH, input="well?", previous_response_id=first["id"])
    assert [message["content"] for message in made.requests[0].prompt.messages] == ["hi", "yes", "well?"]


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"role": "king", "content": "x"}, "input.0"),
        ({"role": "user", "content": [{"type": "input_image"}]}, "input.0.content"),
        ({"role": "user"}, "input.0.content"),
        ({"type": "function_call", "call_id": "c", "name": "f", "arguments": {}}, "input.0.arguments"),
        ({"type": "function_call", "call_id": "c", "name": "f", "arguments": 5}, "input.0.arguments"),
        ({"type": "function_call", "name": "f"}, "input.0"),
        ({"type": "reasoning", "content": "x"}, "input.0.content"),
        ({"type": "reasoning", "summary": [{"type": "summary_text", "text": 5}]}, "input.0.content"),
        ({}, "input.0"),
    ],
)
def test_what_is_wrong_with_an_item_is_named(item: dict[str, Any], param: str) -> None:
    error = refused(PATH, input=[item])
    assert error["param"] == param
    assert error["message"].startswith(param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": 0}, "background"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"n": 2}, "n"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"input": 5}, "input"),
        ({"input": ["a"]}, "input"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"verbosity": "x"}}, "text.verbosity"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"max_completion_tokens": 5}, "max_completion_tokens"),
        ({"logprobs": True}, "logprobs"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "messages"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"context_management": 5}, "context_management"),
        ({"truncation": "middle"}, "truncation"),
        ({"multi_agent": {"enabled": True}}, "multi_agent"),
        ({"prompt_cache_options": {"mode": "explicit", "prewarm": True}}, "prompt_cache_options.prewarm"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    assert refused(PATH, **{"input": "hi"} | body)["param"] == param


def test_a_choice_of_a_tool_that_runs_elsewhere_is_told_that_it_does() -> None:
    tools = [{"type": "web_search"}]
    message = refused(PATH, input="hi", tools=tools, tool_choice={"type": "web_search"})["message"]
    assert message == "tool_choice: Expected a tool that the client runs; no tool of type 'web_search' runs here"


def test_fields_without_meaning_here_are_ignored() -> None:
    call(
        logprobs=False,
        store=True,
        background=False,
        include=[],
        previous_response_id=None,
        nonsense=1,
        user="me",
    )


def test_a_response_repeats_what_its_request_asked_for() -> None:
    parameters = {
        "frequency_penalty": 0.5,
        "max_tool_calls": 3,
        "presence_penalty": -0.5,
        "prompt_cache_key": "one",
        "safety_identifier": "two",
        "store": False,
        "top_logprobs": 2,
        "user": "three",
    }
    settings = {"reasoning": {"effort": "low", "context": "all_turns"}, "text": {"verbosity": "low"}}
    response = whole(call(**parameters, **settings, background=None), tokens(["a"]))
    assert parameters.items() <= response.items()
    assert response["reasoning"] == {"effort": "low", "summary": None, "context": "all_turns"}
    assert response["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    assert (response["background"], response["service_tier"]) == (False, "default")


def test_a_response_that_was_not_asked_for_anything_has_the_defaults() -> None:
    response = whole(call(), tokens(["a"]))
    defaults = {"frequency_penalty": 0, "presence_penalty": 0, "store": True, "top_logprobs": 0, "user": None}
    assert defaults.items() <= response.items()
    assert response["reasoning"] == {"effort": None, "summary": None}


def test_a_response_says_when_it_was_completed_and_not_when_it_was_cut_off() -> None:
    events = named_events(streamed(call(), tokens(["a"])))
    first, last = (event["response"] for event in (events[0], events[-1]))
    assert first["completed_at"] is None
    assert last["completed_at"] >= last["created_at"]
    assert whole(call(), [replace(FINISHED, finish_reason="length")])["completed_at"] is None


def test_a_conversation_may_be_shortened_so_that_the_answer_has_room() -> None:
    assert prompt_of().leave_room is None
    assert prompt_of(truncation="disabled").leave_room is None
    assert prompt_of(truncation=None).leave_room is None
    assert prompt_of(truncation="auto").leave_room == 128
    assert prompt_of(truncation="auto", max_output_tokens=30).leave_room == 30
    assert whole(call(truncation="auto"), tokens(["a"]))["truncation"] == "auto"
    assert whole(call(), tokens(["a"]))["truncation"] == "disabled"


def test_a_tool_that_runs_on_openais_servers_is_left_out() -> None:
    prompt = prompt_of(tools=[ADD, {"type": "web_search"}, {"type": "code_interpreter"}])
    assert prompt.tools is not None
    (tool,) = prompt.tools
    assert tool["function"] == {"name": "add", "parameters": {"type": "object"}, "strict": True}
    assert prompt_of(tools=[{"type": "web_search"}]).tools is None


def test_what_is_null_in_an_item_is_absent() -> None:
    items = [
        {"type": None, "role": "user", "content": "hi", "id": None},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": None}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": None},
    ]
    user, assistant = prompt_of(input=items).messages
    assert user == {"role": "user", "content": "hi"}
    assert assistant["tool_calls"][0]["function"] == {"name": "f", "arguments": {}}
    assert "reasoning_content" not in assistant


def test_one_tool_can_be_named() -> None:
    assert prompt_of(tools=[ADD], tool_choice={"type": "function", "name": "add"}).named_tool == "add"


def test_the_form_of_the_text_becomes_a_grammar() -> None:
    schema = {"type": "object"}
    body = {"text": {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}}}
    assert call(**body).requests[0].grammar == Grammar("json_schema", '{"type": "object"}')
    assert call(text={"format": {"type": "text"}}).requests[0].grammar is None
    assert (
        refused(PATH, input="hi", text={"format": {"type": "json_schema", "name": "x"}})["param"]
        == "text.format.schema"
    )


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        (None, {"type": "text"}),
        ({"format": {"type": "json_object"}}, {"type": "json_object"}),
        (
            {"format": {"type": "json_schema", "name": "x", "schema": {}, "strict": True}},
            {"type": "json_schema", "name": "x", "schema": {}, "strict": True},
        ),
        (
            {"format": {"type": "json_schema", "schema": {}}},
            {"type": "json_schema", "name": "answer", "schema": {}},
        ),
    ],
)
def test_a_response_repeats_the_form_of_its_text(form: Any, shown: Any) -> None:
    assert whole(call(text=form), tokens(["a"]))["text"] == {"format": shown}


def test_the_length_and_the_effort_reach_the_engine() -> None:
    (request,) = call(max_output_tokens=7, reasoning={"effort": "none"}, temperature=0).requests
    assert (request.params.max_tokens, request.params.temperature) == (7, 0)
    assert request.prompt.template_arguments["enable_thinking"] is False
    assert request.fill_context


# --- What is answered -------------------------------------------------------------------------------------------------


def test_a_response_repeats_what_was_asked_and_has_items_and_usage() -> None:
    answer = whole(call(tools=[ADD], metadata={"a": "b"}, max_output_tokens=9), tokens(["Hi", " you"]))
    assert (answer["id"][:5], answer["object"], answer["status"]) == ("resp_", "response", "completed")
    assert (answer["tools"], answer["metadata"], answer["max_output_tokens"]) == ([ADD], {"a": "b"}, 9)
    (item,) = answer["output"]
    assert without_ids(item) == {
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Hi you", "annotations": [], "logprobs": []}],
    }
    assert answer["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 5,
    }


def test_a_part_of_another_kind_begins_another_item() -> None:
    parts: list[tuple[Part, ...]] = [
        (TextPart("reasoning", "hm"),),
        (TextPart("content", "a"),),
        (TextPart("content", "b"), CALL),
        (TextPart("content", "c"),),
    ]
    output = whole(call(), parsed_tokens(parts))["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call", "message"]
    assert output[0]["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert [item["content"][0]["text"] for item in output if item["type"] == "message"] == ["ab", "c"]
    assert (output[2]["name"], output[2]["arguments"]) == ("add", '{"a": 1}')


def test_a_cut_response_is_incomplete() -> None:
    answer = whole(call(), [*tokens(["Hi"])[:-1], replace(FINISHED, finish_reason="length")])
    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    assert answer["output"][0]["status"] == "incomplete"


def test_only_one_call_is_made_if_only_one_is_wanted() -> None:
    assert len(whole(call(parallel_tool_calls=False), parsed_tokens([(CALL, CALL)]))["output"]) == 1


def test_what_comes_of_a_call_too_many_is_left_out() -> None:
    too_many: Tokens = [(CALL, ToolCallPart("add", "{", is_whole=False)), (ArgumentsPart("}"),)]
    (only,) = whole(call(parallel_tool_calls=False), parsed_tokens(too_many))["output"]
    assert only["arguments"] == CALL.arguments


def test_a_call_that_is_cut_off_is_incomplete() -> None:
    *made, _ = parsed_tokens([(ToolCallPart("add", '{"a', is_whole=False),)])
    (item,) = whole(call(), [*made, replace(FINISHED, finish_reason="length")])["output"]
    assert (item["arguments"], item["status"]) == ('{"a', "incomplete")


def test_a_call_that_a_stop_string_cuts_off_is_incomplete() -> None:
    for rest, status in ((), "incomplete"), ((ArgumentsPart('": 1}'),), "completed"):
        *made, _ = parsed_tokens([(ToolCallPart("add", '{"a', is_whole=False), *rest)])
        answer = whole(call(), [*made, replace(FINISHED, stop_reason=",")])
        assert (answer["status"], answer["output"][0]["status"]) == ("completed", status)


def test_log_probabilities_come_if_they_are_included() -> None:
    scored = Token("a", 1, 1.0, True, logprobs=Logprobs(TokenLogprob(1, "a", b"a", -0.5)))
    cases: list[tuple[dict[str, Any], int]] = [
        ({"include": ["message.output_text.logprobs"]}, 1),
        ({"top_logprobs": 1}, 1),
        ({}, 0),
    ]
    for body, expected in cases:
        made = call(**body)
        assert (made.requests[0].params.logprobs is not None) == bool(expected)
        answer = whole(made, [scored, FINISHED])
        assert len(answer["output"][0]["content"][0]["logprobs"]) == expected


def test_a_stream_announces_each_item_before_its_deltas() -> None:
    parts: list[tuple[Part, ...]] = [(TextPart("reasoning", "hm"),), (TextPart("content", "a"), CALL)]
    events = named_events(streamed(call(), parsed_tokens(parts)))
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_a_failed_stream_ends_with_an_error_event_and_a_failed_response() -> None:
    events = named_events(streamed(call(), [Token("Hi", 1, 1.0, True), Failed("why", "engine_error")]))
    error, failed = events[-2:]
    assert (error["type"], error["message"], error["code"]) == ("error", "why", "server_error")
    assert failed["type"] == "response.failed"
    assert failed["response"]["error"] == {"code": "server_error", "message": "why"}
    assert failed["response"]["output"][0]["status"] == "incomplete"


@given(ANSWERS)
def test_the_events_of_a_stream_add_up_to_the_whole_response(parts: Tokens) -> None:
    made = parsed_tokens(parts)
    answer = whole(call(), made)
    events = named_events(streamed(call(), made))
    final = events[-1]["response"]
    joined: list[str] = []
    done: list[dict[str, Any]] = []
    for event in events:
        if event["type"] == "response.output_item.added":
            assert event["output_index"] == len(joined)
            joined.append("")
        elif event["type"].endswith(".delta"):
            joined[event["output_index"]] += event["delta"]
        elif event["type"] == "response.output_item.done":
            done.append(event["item"])
    assert done == final["output"]
    assert [without_ids(item) for item in final["output"]] == [without_ids(item) for item in answer["output"]]
    for text, item in zip(joined, final["output"], strict=True):
        assert text == (item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"])
    flat = [part for token in parts for part in token]
    assert "".join(joined) == "".join(p.arguments if isinstance(p, ToolCallPart) else p.text for p in flat)
