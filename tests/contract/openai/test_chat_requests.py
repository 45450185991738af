"""`POST /v1/chat/completions`: bodies as requests to the engine."""

import json
from typing import Any

import pytest

from contract.conversation import thinking_switches
from contract.tokens import TokenizeBody
from interface.requests import ChatPrompt, Grammar
from tests.support.openai_answers import MESSAGES, parse, refused

PATH = "/v1/chat/completions"
SAMPLERS_THAT_ARE_OFF = {
    "typical_p": 1.0,
    "mirostat": 0,
    "dynatemp_range": 0.0,
    "xtc_probability": 0,
    "top_n_sigma": -1,
    "top_a": 0,
    "tfs": 1,
    "dry_multiplier": 0.0,
    "no_repeat_ngram_size": 0,
    "n_predict": -1,
    "min_length": 0,
}
"""As frontends send them that were written for another server."""
ADD = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}
NOW = {"type": "function", "function": {"name": "now"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def prompt_of(**body: Any) -> ChatPrompt:
    """The prompt that a body becomes."""
    (request,) = parse(PATH, **{"messages": MESSAGES} | body).requests
    assert isinstance(request.prompt, ChatPrompt)
    return request.prompt


def test_a_conversation_becomes_plain_messages() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "Be kind.", "name": "dev"},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "hm"},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "3"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "tool_calls": []},
    ]
    assert prompt_of(messages=messages).messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "Be kind.", "name": "dev"},
        {"role": "user", "content": "one\ntwo"},
        {
            "role": "assistant",
            "reasoning_content": "hm",
            "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "content": "3", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "no"},
    ]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "king", "content": "x"}, "messages.0.role"),
        ({"content": "x"}, "messages.0.role"),
        ({"role": "user", "content": 1}, "messages.0.content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages.0.content"),
        ({"role": "assistant", "tool_calls": [{"type": "function"}]}, "messages.0.tool_calls.0.function"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]},
            "messages.0.tool_calls.0.function.arguments",
        ),
        ({"role": "assistant", "audio": {"id": "audio_1"}}, "messages.0.audio"),
        ({"role": "user"}, "messages.0.content"),
        ({"role": "system", "content": None}, "messages.0.content"),
        ({"role": "tool", "tool_call_id": "c"}, "messages.0.content"),
    ],
)
def test_what_is_wrong_with_a_message_is_named(message: dict[str, Any], param: str) -> None:
    error = refused(PATH, messages=[message])
    assert error["param"] == param
    assert error["message"].startswith(param)


def test_a_part_that_is_no_text_is_named() -> None:
    content = [{"type": "text", "text": "look"}, {"type": "input_audio", "input_audio": {}}]
    error = refused(PATH, messages=[{"role": "user", "content": content}])
    assert "part 1 is of type 'input_audio'" in error["message"]


def test_an_empty_conversation_is_refused() -> None:
    assert refused(PATH, messages=[])["param"] == "messages"
    assert refused(PATH)["param"] == "messages"


def test_all_that_is_left_of_the_context_may_be_used_and_more_is_clamped() -> None:
    cases: list[tuple[dict[str, int], int | None]] = [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
    ]
    for body, expected in cases:
        (request,) = parse(PATH, messages=MESSAGES, **body).requests
        assert request.params.max_tokens == expected
        assert request.fill_context
        assert request.clamp_max_tokens


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"logprobs": None}, None),
        ({"logprobs": False}, None),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 5}, 5),
    ],
)
def test_log_probabilities_are_passed_on(body: dict[str, Any], expected: int | None) -> None:
    assert parse(PATH, messages=MESSAGES, **body).requests[0].params.logprobs == expected


def test_tools_and_their_choice_reach_the_template() -> None:
    prompt = prompt_of(tools=[ADD, NOW])
    assert prompt.tools is not None
    assert prompt.tools[0] == ADD
    assert prompt.tools[1]["function"]["parameters"] == {"type": "object", "properties": {}}
    assert (prompt.tool_choice, prompt.named_tool, prompt.parallel_tool_calls) == ("auto", None, True)
    named = {"type": "function", "function": {"name": "now"}}
    for choice, mode, name in (("none", "none", None), ("required", "required", None), (named, "auto", "now")):
        prompt = prompt_of(tools=[ADD, NOW], tool_choice=choice, parallel_tool_calls=False)
        assert (prompt.tool_choice, prompt.named_tool, prompt.parallel_tool_calls) == (mode, name, False)
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}
    prompt = prompt_of(tools=[ADD, NOW], tool_choice=allowed)
    assert prompt.tools is not None
    assert [tool["function"]["name"] for tool in prompt.tools] == ["now"]
    assert prompt.tool_choice == "required"


def test_no_tools_is_the_same_as_an_empty_list() -> None:
    bodies: list[dict[str, Any]] = [{}, {"tools": None}, {"tools": []}, {"tools": [], "tool_choice": "auto"}]
    for body in bodies:
        assert prompt_of(**body).tools is None


@pytest.mark.parametrize(
    "choice", ["any", {"type": "function"}, {"type": "function", "function": {"name": "sub"}}, 1, []]
)
def test_a_choice_of_no_known_tool_is_refused(choice: Any) -> None:
    assert refused(PATH, messages=MESSAGES, tools=[ADD], tool_choice=choice)["param"] == "tool_choice"


def test_tools_of_another_type_are_refused_by_name() -> None:
    error = refused(PATH, messages=MESSAGES, tools=[ADD, {"type": "web_search"}])
    assert error["param"] == "tools.1.type"


@pytest.mark.parametrize(
    ("body", "grammar"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Grammar("json_schema", '{"type": "object"}')),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            Grammar("json_schema", json.dumps(SCHEMA)),
        ),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, Grammar("json_schema", json.dumps(SCHEMA))),
        ({"structured_outputs": {"choice": ["a", "b"]}}, Grammar("choice", '["a", "b"]')),
    ],
)
def test_the_form_of_the_answer_becomes_a_grammar(body: dict[str, Any], grammar: Grammar | None) -> None:
    (request,) = parse(PATH, messages=MESSAGES, **body).requests
    assert request.grammar == grammar
    assert request.parse_response == (grammar is None), "what a grammar demands is no tool call"


def test_a_forced_call_brings_its_own_grammar() -> None:
    body = {"tools": [ADD], "tool_choice": "required", "response_format": {"type": "json_object"}}
    (request,) = parse(PATH, messages=MESSAGES, **body).requests
    assert request.grammar is None
    assert request.parse_response


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream_options": {}}, "stream_options"),
        ({"chat_template": "{{ messages }}"}, "chat_template"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"documents": [{"text": "a"}]}, "documents"),
        ({"logits_processors": ["a.b"]}, "logits_processors"),
        ({"moderation": {"model": "x"}}, "moderation"),
        ({"max_output_tokens": 5}, "max_output_tokens"),
        ({"n_predict": 5}, "n_predict"),
        ({"typical_p": 0.5}, "typical_p"),
        ({"xtc_probability": 0.5}, "xtc_probability"),
        ({"dry_multiplier": 0.8}, "dry_multiplier"),
        ({"mirostat": 2}, "mirostat"),
        ({"sequence_bias": [[[1, 2], -1.0]]}, "sequence_bias"),
        ({"reasoning_format": "none", "tools": [ADD]}, "reasoning_format"),
        ({"continue_final_message": True}, "messages"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    assert refused(PATH, messages=MESSAGES, **body)["param"] == param


def test_a_refusal_is_what_the_assistant_said() -> None:
    refused_before = {"role": "assistant", "content": None, "refusal": "I will not.", "audio": None}
    prompt = prompt_of(messages=[*MESSAGES, refused_before, *MESSAGES])
    assert prompt.messages[1] == {"role": "assistant", "content": "I will not."}


def test_harmless_fields_are_ignored() -> None:
    prompt_of(
        modalities=["text"],
        functions=[],
        documents=[],
        function_call="none",
        verbosity="low",
        prediction={},
        nonsense=1,
        **SAMPLERS_THAT_ARE_OFF,
    )


def test_arguments_of_the_template_come_from_two_places() -> None:
    prompt = prompt_of(reasoning_effort="none", chat_template_kwargs={"tone": "kind"})
    assert prompt.template_arguments == {**thinking_switches(False), "reasoning_effort": "none", "tone": "kind"}
    prompt = prompt_of(reasoning_effort="low", chat_template_kwargs={"enable_thinking": False})
    assert prompt.template_arguments["enable_thinking"] is False


def test_the_last_message_can_be_continued_and_echoed() -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": "The answer"}]
    call = parse(PATH, messages=messages, continue_final_message=True, echo=True)
    assert call.requests[0].prompt.continue_final_message
    assert not call.requests[0].prompt.add_generation_prompt
    body = {"continue_final_message": True, "add_generation_prompt": True}
    assert refused(PATH, messages=messages, **body)["param"] == "continue_final_message"


def test_a_message_can_say_itself_that_it_is_continued() -> None:
    begun = {"role": "assistant", "content": "The answer", "prefix": True}
    prompt = prompt_of(messages=[*MESSAGES, begun])
    assert (prompt.continue_final_message, prompt.add_generation_prompt) == (True, False)
    assert prompt.messages[-1] == {"role": "assistant", "content": "The answer"}
    assert TokenizeBody.model_validate({"messages": [*MESSAGES, begun]}).to_prompt() == prompt
    assert not prompt_of(messages=[*MESSAGES, begun, *MESSAGES]).continue_final_message
    assert refused(PATH, messages=[MESSAGES[0] | {"prefix": True}])["param"] == "messages"
