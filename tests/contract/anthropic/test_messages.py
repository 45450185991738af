"""The Messages API, without a server: its bodies as requests, and its answers and events."""

import json
from typing import Any

import pytest
from anthropic.types.beta import BetaRawMessageDeltaEvent
from hypothesis import given

import contract
from contract.conversation import thinking_switches
from interface.events import ArgumentsPart, Event, Failed, Finished, Part, TextPart, Token, ToolCallPart
from interface.requests import Grammar
from tests.support.answer_parts import ANSWERS, Tokens
from tests.support.anthropic_answers import ACCEPTED, put_together, streamed, tokens_of, whole, without_ids
from tests.support.anthropic_requests import HELLO, parsed, prompt_of, refused

FINISHED = Finished("stop", 9, 4, prefill_ms=1, decode_ms=1, total_ms=2, cached_tokens=5)
TOOL = {"name": "add", "description": "Adds.", "input_schema": {"type": "object", "properties": {"a": {}}}}


def test_context_management_that_a_request_asks_for_has_edited_nothing() -> None:
    asked = parsed(context_management={"edits": [{"type": "clear_tool_uses_20250919"}]})
    nothing: dict[str, list[Any]] = {"applied_edits": []}
    assert json.loads(asked.answer(ACCEPTED, [FINISHED]).body)["context_management"] == nothing
    writer = asked.writer(ACCEPTED)
    assert b"context_management" not in writer.start()
    delta = json.loads(writer.event(FINISHED).split(b"data: ")[1].split(b"\n")[0])
    assert BetaRawMessageDeltaEvent.model_validate(delta).context_management is not None
    assert delta["context_management"] == nothing
    assert "context_management" not in whole([FINISHED])


def test_the_stream_of_a_text_has_the_documented_events() -> None:
    events = streamed([Token("Hel", 1, 1.0, True), Token("lo", 2, 1.0, False), FINISHED])
    assert [event["type"] for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["stop_reason"] is None
    counts = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    assert [events[0]["message"]["usage"][name] for name in counts] == [9, 0, 0, 0]
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}


def test_the_tokens_that_were_in_the_cache_are_counted_apart() -> None:
    usage = whole([*tokens_of(TextPart("content", "x")), FINISHED])["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (4, 5, 4)


@given(ANSWERS)
def test_joining_the_deltas_gives_the_whole_message(answer: Tokens) -> None:
    tokens = [Token("", number, 1.0, number == 0, parts=parts) for number, parts in enumerate(answer)]
    events: list[Event] = [*tokens, FINISHED]
    assert without_ids(put_together(streamed(events))) == without_ids(whole(events))


def test_a_call_that_is_cut_off_has_the_input_that_there_was() -> None:
    cut = tokens_of(ToolCallPart("add", '{"a": 1, "b": ', is_whole=False), ArgumentsPart('"x'))
    message = whole([*cut, Finished("length", 1, 5, 1, 1, 2)])
    assert message["content"][0]["input"] == {"a": 1}
    assert message["stop_reason"] == "max_tokens"


def test_a_number_of_more_digits_than_python_reads_does_not_end_the_message() -> None:
    digits = f'{{"a": 1{"0" * 5000}}}'
    events: list[Event] = [*tokens_of(ToolCallPart("add", digits)), FINISHED]
    assert whole(events)["content"][0]["input"] == {"arguments": digits}
    assert streamed(events)[-1]["type"] == "message_stop"


def test_each_block_is_stopped_before_the_next_one_starts() -> None:
    parts: list[Part] = [
        TextPart("reasoning", "hm"),
        TextPart("content", "a"),
        ToolCallPart("f", "{}"),
        TextPart("content", "b"),
    ]
    open_blocks = 0
    for event in streamed([*tokens_of(*parts), FINISHED]):
        open_blocks += {"content_block_start": 1, "content_block_stop": -1}.get(event["type"], 0)
        assert open_blocks in (0, 1)
    assert open_blocks == 0


@pytest.mark.parametrize(
    ("finished", "reason", "sequence"),
    [
        (Finished("stop", 1, 1, 1, 1, 2), "end_turn", None),
        (Finished("length", 1, 5, 1, 1, 2), "max_tokens", None),
        (Finished("length", 1, 4, 1, 1, 2), "model_context_window_exceeded", None),
        (Finished("stop", 1, 1, 1, 1, 2, stop_reason="END"), "stop_sequence", "END"),
        (Finished("stop", 1, 1, 1, 1, 2, stop_reason=7), "end_turn", None),
    ],
)
def test_each_end_has_its_stop_reason(finished: Finished, reason: str, sequence: str | None) -> None:
    message = whole([*tokens_of(TextPart("content", "x")), finished])
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)


def test_a_tool_call_is_the_reason_to_stop() -> None:
    assert whole([*tokens_of(ToolCallPart("add", "{}")), FINISHED])["stop_reason"] == "tool_use"


def test_a_call_that_a_stop_sequence_cuts_off_is_not_to_be_made() -> None:
    finished = Finished("stop", 1, 1, 1, 1, 2, stop_reason=",")
    begun = ToolCallPart("add", '{"a": 1', is_whole=False)
    assert whole([*tokens_of(begun), finished])["stop_reason"] == "stop_sequence"
    assert whole([*tokens_of(begun, ArgumentsPart("}")), finished])["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("kind", "type"), [("engine_error", "api_error"), ("unusable_grammar", "invalid_request_error")]
)
def test_a_stream_that_fails_says_so_and_nothing_follows(kind: Any, type: str) -> None:
    *_, last = streamed([Token("Hel", 1, 1.0, True), Failed("why", kind)])
    assert last == {"type": "error", "error": {"type": type, "message": "why"}, "request_id": "an-id"}


def test_blocks_become_the_messages_that_templates_know() -> None:
    prompt = prompt_of(
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        tools=[TOOL],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "1 + 2?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": ""},
                    {"type": "text", "text": "Let me see."},
                    {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "3"}]},
                    {"type": "text", "text": "Well?"},
                ],
            },
        ],
    )
    assert [message["role"] for message in prompt.messages] == ["system", "user", "assistant", "tool", "user"]
    assistant = prompt.messages[2]
    assert assistant["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
    assert assistant["reasoning_content"] == "hm"
    assert prompt.messages[3]["content"] == "3"
    assert prompt.tools is not None
    assert prompt.tools[0]["function"]["name"] == "add"


TEXT = {"type": "text", "text": "The sky is green."}
TEXT_SOURCE = {"type": "text", "media_type": "text/plain", "data": "The sky is green."}


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"type": "document", "source": TEXT_SOURCE}, "The sky is green."),
        (
            {"type": "document", "source": TEXT_SOURCE, "title": "Sky", "context": "Old."},
            "Sky\nOld.\nThe sky is green.",
        ),
        ({"type": "document", "source": {"type": "content", "content": "Green."}, "citations": None}, "Green."),
        (
            {"type": "document", "source": {"type": "content", "content": [TEXT, TEXT]}},
            "The sky is green.\nThe sky is green.",
        ),
        (
            {"type": "search_result", "source": "a.txt", "title": "Sky", "content": [TEXT]},
            "Sky\na.txt\nThe sky is green.",
        ),
    ],
)
def test_documents_and_search_results_that_are_text_are_read(block: dict[str, Any], expected: str) -> None:
    content = [block, {"type": "text", "text": "Is it?"}]
    assert prompt_of(messages=[{"role": "user", "content": content}]).messages[0]["content"] == f"{expected}\nIs it?"
    result = {"type": "tool_result", "tool_use_id": "1", "content": [block]}
    assert prompt_of(messages=[{"role": "user", "content": [result]}]).messages[0]["content"] == expected


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ({}, 'Examples of its input:\n{"a": 1}\n{"a": "é"}'),
        ({"description": "Adds."}, 'Adds.\nExamples of its input:\n{"a": 1}\n{"a": "é"}'),
    ],
)
def test_examples_of_a_tools_input_are_shown_to_the_model(described: dict[str, Any], expected: str) -> None:
    tool = {"name": "add", "input_schema": {"type": "object"}, "input_examples": [{"a": 1}, {"a": "é"}], **described}
    (offered,) = prompt_of(tools=[tool]).tools or ()
    assert offered["function"]["description"] == expected


def test_effort_reaches_templates_that_know_it() -> None:
    assert prompt_of(output_config={"effort": "low"}).template_arguments == {"reasoning_effort": "low"}
    assert prompt_of(thinking={"type": "disabled"}).template_arguments == thinking_switches(False)
    assert prompt_of().template_arguments == {}


def test_what_one_role_says_in_turn_is_one_message() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    assert prompt_of(messages=messages).messages == [{"role": "user", "content": "a\n\nb"}]


def test_a_last_message_of_the_assistant_is_the_beginning_of_the_answer() -> None:
    user = {"role": "user", "content": "a"}
    begun = prompt_of(messages=[user, {"role": "assistant", "content": [{"type": "text", "text": "It is"}]}])
    assert (begun.continue_final_message, begun.add_generation_prompt) == (True, False)
    called = {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "add", "input": {}}]}
    for messages in ([user], [user, called], [user, {"role": "assistant", "content": ""}]):
        prompt = prompt_of(messages=messages)
        assert (prompt.continue_final_message, prompt.add_generation_prompt) == (False, True)


def test_what_cannot_be_answered_is_not_counted_either() -> None:
    path, body = "/v1/messages/count_tokens", {"messages": HELLO["messages"], "mcp_servers": [{"type": "url"}]}
    with pytest.raises(contract.Refusal, match="mcp_servers"):
        contract.endpoints_at(path)["POST"].parse(contract.Incoming(json.dumps(body).encode(), models=("a",)))


def test_the_form_of_the_answer_may_be_asked_for_in_two_places() -> None:
    form = {"type": "json_schema", "schema": {"type": "integer"}}
    places: list[tuple[dict[str, Any], str]] = [
        ({"output_config": {"format": form}}, "output_config.format.schema"),
        ({"output_format": form}, "output_format.schema"),
    ]
    for fields, param in places:
        grammar = parsed(**fields).requests[0].grammar
        assert grammar == Grammar("json_schema", '{"type": "integer"}')
        assert grammar.param == param
    assert parsed(output_config={"effort": "low"}).requests[0].grammar is None


def test_there_may_be_more_stop_sequences_than_openai_has() -> None:
    assert parsed(stop_sequences=list("abcdef")).requests[0].params.stop == list("abcdef")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, ("auto", None, True)),
        ({"type": "any", "disable_parallel_tool_use": True}, ("required", None, False)),
        ({"type": "tool", "name": "add"}, ("auto", "add", True)),
        ({"type": "none"}, ("none", None, True)),
        (None, ("auto", None, True)),
    ],
)
def test_each_tool_choice_reaches_the_prompt(choice: Any, expected: tuple[str, str | None, bool]) -> None:
    prompt = prompt_of(tools=[TOOL], tool_choice=choice)
    assert (prompt.tool_choice, prompt.named_tool, prompt.parallel_tool_calls) == expected


@pytest.mark.parametrize(
    ("fields", "status", "type", "reason"),
    [
        ({"max_tokens": None}, 400, "invalid_request_error", "max_tokens"),
        ({"messages": []}, 400, "invalid_request_error", "messages"),
        ({"model": "other"}, 404, "not_found_error", "a/model, alias"),
        ({"temperature": "hot"}, 400, "invalid_request_error", "temperature"),
        ({"stop_sequences": list("abcdef" * 11)}, 400, "invalid_request_error", "stop_sequences"),
        ({"mcp_servers": [{"type": "url"}]}, 400, "invalid_request_error", "mcp_servers"),
        ({"tools": [{"name": "add"}]}, 400, "invalid_request_error", "tools.0.input_schema"),
        ({"tools": [{**TOOL, "input_schema": {"type": "string"}}]}, 400, "invalid_request_error", "tools.0"),
        ({"messages": [{"role": "user", "content": 5}]}, 400, "invalid_request_error", "messages.0.content:"),
        ({"stop": ["a"]}, 400, "invalid_request_error", "stop: it is a field of OpenAI's APIs; use stop_sequences"),
        ({"response_format": {"type": "json_object"}}, 400, "invalid_request_error", "use output_config.format"),
        ({"reasoning_effort": "low"}, 400, "invalid_request_error", "use output_config.effort"),
        ({"n": 2}, 400, "invalid_request_error", "n: a message has no other choices"),
        ({"context_management": 5}, 400, "invalid_request_error", "context_management"),
        ({"container": "c"}, 400, "invalid_request_error", "container"),
        ({"compaction": {"type": "forget"}}, 400, "invalid_request_error", "compaction"),
        ({"tool_choice": {"type": "any"}}, 400, "invalid_request_error", "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, 400, "invalid_request_error", "add"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            400,
            "invalid_request_error",
            "messages.0.content.0",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "url", "url": "x"}}]}]},
            400,
            "invalid_request_error",
            "messages.0.content.0: this model reads text only",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "document", "source": TEXT_SOURCE, "citations": {"enabled": True}}],
                    }
                ]
            },
            400,
            "invalid_request_error",
            "messages.0.content.0.citations",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(fields: Any, status: int, type: str, reason: str) -> None:
    got, error = refused(**fields)
    assert (got, error["type"]) == (status, type)
    assert reason in error["message"]


@pytest.mark.parametrize("thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}])
def test_a_thread_is_refused_so_that_the_client_sends_the_whole_conversation(thread: Any) -> None:
    status, error = refused(thread=thread)
    assert status == 400
    assert "whole" in error["message"]
    assert error["details"]["error_code"] == "thread_unsupported_request"
    assert "details" not in refused(max_tokens=-1)[1]


def test_null_is_absent_and_unknown_fields_are_ignored() -> None:
    call = parsed(temperature=None, stop_sequences=None, tools=None, metadata={"user_id": "x"}, beta_thing=1)
    assert call.requests[0].params.temperature is None
