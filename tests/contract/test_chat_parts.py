"""What the chat endpoints share: contents, tools, grammars and conversations."""

import json
from typing import Any

import pytest

import contract
from contract.anthropic.blocks import unknown_block
from contract.bodies import LenientBody, read_body
from contract.content import Content, first_of_question, text_at
from contract.conversation import checked_prompt, thinking_arguments
from contract.grammars import StructuredOutputs, schema_grammar
from contract.requests import MAX_ECHO
from contract.tools import FREE_CHOICE, UNREADABLE, ToolChoice, arguments_of, function_tool, object_of, tool_call
from interface.requests import ChatPrompt, Grammar

USER = [{"role": "user", "content": "hi"}]
ADD = function_tool("add", "adds", {"type": "object", "properties": {"a": {"type": "number"}}})
NOW = function_tool("now", None, None)


class Said(LenientBody):
    content: Content


def text_of(content: Any) -> str:
    return text_at(read_body(Said, json.dumps({"content": content}).encode()).content, "content")


def prompt_of(messages: Any, tools: Any = None, choice: ToolChoice = FREE_CHOICE, **settings: Any) -> ChatPrompt:
    return checked_prompt(ChatPrompt(messages, tools, **settings), choice)


def refusal_of(*arguments: Any, **settings: Any) -> contract.Refusal:
    with pytest.raises(contract.Refusal) as caught:
        prompt_of(*arguments, **settings)
    return caught.value


def test_text_parts_become_one_text() -> None:
    assert text_of("plain") == "plain"
    assert text_of([{"type": "text", "text": "one"}, {"type": "input_text", "text": "two"}]) == "one\ntwo"
    assert text_of([{"type": "refusal", "refusal": "no"}]) == "no"
    assert text_of([]) == ""


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_a_part_that_is_not_text_is_refused_by_name(kind: str) -> None:
    with pytest.raises(contract.Refusal) as caught:
        text_of([{"type": "text", "text": "look"}, {"type": kind, kind: {}}])
    assert caught.value.status == 400
    assert caught.value.param == "content"
    assert f"part 1 is of type '{kind}'" in caught.value.message


@pytest.mark.parametrize("kind", ["image", "image_url", "input_image", "input_audio", "file", "input_file", "document"])
def test_a_note_can_stand_in_for_a_part_that_is_not_text(kind: str) -> None:
    text, noted, end = text_at(["saved:", {"type": kind}, "end"], "content", notes_media=True).split("\n")
    assert (text, end) == ("saved:", "end")
    assert "You take only text" in noted


def test_no_note_stands_in_for_a_part_of_an_unknown_type() -> None:
    for part in ({"type": "text"}, {"type": "telepathy"}, {"type": ["image"]}, {}, 1):
        with pytest.raises(contract.Refusal):
            text_at([part], "content", notes_media=True)


@pytest.mark.parametrize(
    ("roles", "first"),
    [
        (["user"], 0),
        (["system", "user", "assistant", "user", "user"], 3),
        (["user", "assistant", "tool"], 3),
        (["user", "assistant", "tool", "user"], 4),
        (["user", "assistant", "tool", "assistant", "user"], 4),
        (["user", "assistant"], 2),
        ([], 0),
    ],
)
def test_the_question_is_what_comes_after_the_last_answer_and_not_with_results(roles: list[str], first: int) -> None:
    assert first_of_question(roles) == first


@pytest.mark.parametrize("wrong", [1, {"type": "text"}, [1], [{"type": "text"}], [{"type": "text", "text": 1}], None])
def test_what_is_no_content_is_refused(wrong: Any) -> None:
    with pytest.raises(contract.Refusal) as caught:
        text_of(wrong)
    assert (caught.value.status, caught.value.param) == (400, "content")


def test_a_tool_without_parameters_takes_an_empty_object() -> None:
    assert NOW["function"] == {"name": "now", "parameters": {"type": "object", "properties": {}}}


def test_arguments_are_an_object_as_text() -> None:
    assert arguments_of('{"a": 1}', "x") == {"a": 1}
    assert arguments_of(" ", "x") == {}
    for wrong in (None, 1, {"a": 1}):
        with pytest.raises(contract.Refusal, match=r"^here: Expected a JSON object as text"):
            arguments_of(wrong, "here")


@pytest.mark.parametrize(
    "text",
    [
        *("[1]", "[1", '"a', "1", "null", '{"a": 1} b', '{"a" 1', "{city: Paris}", '{"a": "\n"}', "[" * 100_000),
        *('{"a": NaN}', '{"a": -Infinity}', '{"a": "\\ud800"}', '{"\\udc00": 1}', '{"a": 1' + "0" * 5000 + "}"),
    ],
)
def test_what_a_model_has_written_as_arguments_comes_back_even_if_it_is_no_object(text: str) -> None:
    assert arguments_of(text, "x") == {UNREADABLE: text}
    with pytest.raises(contract.Refusal, match=r"^schema: Expected a JSON object") as caught:
        object_of(text, "schema")
    assert (caught.value.param, len(caught.value.message) < 500) == ("schema", True)


def test_a_call_that_was_cut_off_has_the_arguments_that_are_there() -> None:
    whole = '{"path": "a.py", "text": "caf\\u00e9", "lines": [1, 23], "new": true}'
    beginnings = [arguments_of(whole[:end], "x") for end in range(len(whole) + 1)]
    assert beginnings[0] == beginnings[1] == {}
    assert beginnings[whole.index("\\u")] == {"path": "a.py", "text": "caf"}
    assert beginnings[whole.index("3]")] == {"path": "a.py", "text": "café", "lines": [1, 2]}
    assert beginnings[-1] == {"path": "a.py", "text": "café", "lines": [1, 23], "new": True}
    with pytest.raises(contract.Refusal, match="EOF"):
        object_of(whole[:-1], "schema")


def test_a_tool_call_has_its_arguments_as_an_object() -> None:
    assert tool_call("call_1", "add", {"a": 1}) == {
        "id": "call_1",
        "type": "function",
        "function": {"name": "add", "arguments": {"a": 1}},
    }
    assert "id" not in tool_call(None, "add", {})


def test_a_conversation_becomes_a_prompt() -> None:
    prompt = prompt_of(USER, [ADD, NOW], ToolChoice("required"), parallel_tool_calls=False)
    assert prompt.tools == [ADD, NOW]
    assert (prompt.tool_choice, prompt.named_tool, prompt.parallel_tool_calls) == ("required", None, False)
    assert prompt_of(USER).tools is None
    assert prompt_of(USER, [ADD, NOW], ToolChoice(name="now")).named_tool == "now"
    assert prompt_of(USER, [ADD, NOW], ToolChoice(allowed=["now"])).tools == [NOW]


def test_a_tool_choice_that_does_not_fit_the_tools_is_refused() -> None:
    for choice in (ToolChoice(name="sub"), ToolChoice(allowed=["add", "sub"])):
        refused = refusal_of(USER, [ADD], choice)
        assert refused.param == "tool_choice"
        assert "'sub'" in refused.message
        assert "'add'" in refused.message
    assert refusal_of(USER, [], ToolChoice("required")).param == "tool_choice"
    assert "allows no tools" in refusal_of(USER, [ADD], ToolChoice("required", allowed=[])).message
    assert prompt_of(USER, [ADD], ToolChoice("auto", allowed=[])).tools is None


def test_a_refusal_does_not_repeat_a_thousand_names() -> None:
    tools = [function_tool(f"tool_{number}" * 10, None, {}) for number in range(1000)]
    for choice in (ToolChoice(name="x" * 100_000), ToolChoice(allowed=[f"y{number}" for number in range(1000)])):
        assert len(refusal_of(USER, tools, choice).message) < 500


def test_a_refusal_does_not_repeat_the_whole_of_a_long_type() -> None:
    part = {"type": "x" * 100_000}
    with pytest.raises(contract.Refusal) as refused:
        text_at([part], "input.0.content")
    for refusal in (refused.value, unknown_block(part, "messages.0", "text")):
        assert len(refusal.message) < 2 * MAX_ECHO
        assert refusal.status == 400


def test_an_empty_conversation_is_refused_and_so_is_continuing_a_user() -> None:
    assert refusal_of([]).param == "messages"
    assert refusal_of(USER, continue_final_message=True).param == "messages"


@pytest.mark.parametrize(("effort", "thinks"), [("none", False), ("low", True), ("high", True)])
def test_an_effort_turns_thinking_on_or_off(effort: str, thinks: bool) -> None:
    assert thinking_arguments(effort) == {"enable_thinking": thinks, "thinking": thinks, "reasoning_effort": effort}
    assert thinking_arguments(None) == {}


def test_a_schema_keeps_the_order_of_its_properties() -> None:
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    grammar = schema_grammar(schema, "x")
    assert grammar.kind == "json_schema"
    assert list(json.loads(grammar.source)["properties"]) == ["b", "a"]
    with pytest.raises(contract.Refusal):
        schema_grammar({"minimum": float("nan")}, "x")


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({"json": {"type": "object"}}, Grammar("json_schema", '{"type": "object"}')),
        ({"json": '{"type": "object"}'}, Grammar("json_schema", '{"type": "object"}')),
        ({"json_object": True}, Grammar("json_schema", '{"type": "object"}')),
        ({"regex": "[0-9]+"}, Grammar("regex", "[0-9]+")),
        ({"choice": ["yes", "no"], "regex": None}, Grammar("choice", '["yes", "no"]')),
        ({"grammar": 'start: "a"'}, Grammar("lark", 'start: "a"')),
    ],
)
def test_each_kind_of_structured_output_is_a_grammar(fields: dict[str, Any], grammar: Grammar) -> None:
    assert StructuredOutputs.model_validate(fields).as_grammar() == grammar


@pytest.mark.parametrize("fields", [{}, {"json_object": False}, {"regex": "a", "choice": ["b"]}])
def test_a_structured_output_is_exactly_one_kind(fields: dict[str, Any]) -> None:
    with pytest.raises(contract.Refusal) as caught:
        StructuredOutputs.model_validate(fields).as_grammar()
    assert caught.value.param == "structured_outputs"
