"""An answer's content, reasoning and tool calls are found while it is generated, wherever it is cut."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from inference.text.response_format import ResponseFormat
from inference.text.tool_forms import HERMES
from interface.events import Part, TextPart, ToolCallPart
from tests.support.chat_tokenizers import chat_tokenizer
from tests.support.parsed_answers import FORMS, TOOLS, cut, joined, parser_of, response_format, several


def parse(family: str, pieces: Sequence[str], **settings: Any) -> list[Part]:
    parser = parser_of(family, **settings)
    parts = [part for piece in pieces for part in parser.feed(piece)]
    return joined([*parts, *parser.finish()])


def content(text: str) -> TextPart:
    return TextPart("content", text)


def call(name: str, **arguments: Any) -> ToolCallPart:
    return ToolCallPart(name, json.dumps(arguments, ensure_ascii=False))


# --- Whole answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FORMS)
def test_text_is_content(family: str) -> None:
    assert parse(family, ["  2 + 2 = 4 < 5 {x} [y]\n\n"]) == [content("  2 + 2 = 4 < 5 {x} [y]\n\n")]


@pytest.mark.parametrize("family", FORMS)
def test_calls_are_found_after_content(family: str) -> None:
    text = "Let me see. " + several(FORMS[family], ("add", {"a": 1}), ("say", {"text": '</b> "q" é😀 [1]'}))
    assert parse(family, [text]) == [content("Let me see."), call("add", a=1), call("say", text='</b> "q" é😀 [1]')]


@pytest.mark.parametrize("family", FORMS)
def test_a_call_without_arguments_has_none(family: str) -> None:
    assert parse(family, [several(FORMS[family], ("add", {}))]) == [ToolCallPart("add", "{}")]


@pytest.mark.parametrize(
    "text", ['<tool_call>{"name": "add"}</tool_call>', '<tool_call>{"name": "add", "arguments": null}']
)
def test_missing_arguments_are_an_empty_object(text: str) -> None:
    assert parse("hermes", [text]) == [ToolCallPart("add", "{}")]


def test_reasoning_is_apart_from_content() -> None:
    text = "<think>\nTwo and two.\n</think>\n\nIt is 4."
    assert parse("qwen", [text]) == [TextPart("reasoning", "Two and two."), content("It is 4.")]


def test_reasoning_that_the_prompt_begins_is_reasoning() -> None:
    text = "Two and two.\n</think>\n\nIt is 4."
    prompt = "<|im_start|>user\n<think>x<|im_end|>\n<|im_start|>assistant\n<think>\n"
    expected = [TextPart("reasoning", "Two and two."), content("It is 4.")]
    assert parse("qwen", [text], prompt=prompt) == expected
    assert parse("qwen", list(text), prompt=prompt) == expected
    assert parser_of("qwen", prompt).is_reasoning


def test_reasoning_that_the_prompt_has_ended_is_over() -> None:
    prompt = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert parse("qwen", list("\nIt is 4."), prompt=prompt) == [content("It is 4.")]
    assert not parser_of("qwen", prompt).is_reasoning


@pytest.mark.parametrize("prompt", ["<user>Hi</user>\n<assistant><think>", "<think>Hi</think><bot>\n<think>\n"])
def test_reasoning_that_a_prompt_of_another_form_begins_is_reasoning(prompt: str) -> None:
    assert parse("qwen", list("So.</think>4"), prompt=prompt) == [TextPart("reasoning", "So."), content("4")]


@pytest.mark.parametrize("prompt", ["<user>What is <think>?</user>\n<bot>", "<bot><think></think>", "<bot>"])
def test_reasoning_that_a_prompt_of_another_form_does_not_begin_is_none(prompt: str) -> None:
    assert parse("qwen", list("It is 4."), prompt=prompt) == [content("It is 4.")]


def test_reasoning_that_is_cut_off_is_reasoning() -> None:
    assert parse("qwen", ["<think>Two and"]) == [TextPart("reasoning", "Two and")]


def test_the_beginning_of_an_answer_that_is_continued_is_not_repeated() -> None:
    prompt = "<|im_start|>assistant\nThe answer is \n"
    assert parse("qwen", list(" 4."), prompt=prompt) == [content(" 4.")]


def test_what_a_conversation_says_is_not_taken_for_the_answer() -> None:
    """The parser sees only the end of the prompt, so a tag in a question opens nothing."""
    for prompt in ["What does <tool_call> mean?", "<|im_start|>user\n<think><|im_end|>\n<|im_start|>assistant\n"]:
        assert parse("qwen", ["It is a tag."], prompt=prompt) == [content("It is a tag.")]


def test_without_tools_a_call_is_content() -> None:
    text = HERMES.write("add", {"a": 1})
    assert parse("qwen", [text], tools=None) == [content(text)]


def test_arguments_take_the_types_of_their_tool() -> None:
    tokenizer = chat_tokenizer("hermes").__class__.from_pretrained("bundled_model")
    tokenizer.chat_template = "{{ tools }} <tool_call><function=name><parameter=x>"
    xml = ResponseFormat.of(tokenizer)
    assert xml is not None
    text = "<tool_call>\n<function=add>\n<parameter=a>\n7\n</parameter>\n</function>\n</tool_call>"
    parser = xml.parser("", TOOLS)
    assert [*parser.feed(text), *parser.finish()] == [call("add", a=7)]


def test_only_one_call_is_given_where_several_are_not_wanted() -> None:
    text = several(HERMES, ("add", {"a": 1}), ("add", {"a": 2}))
    assert parse("hermes", [text], parallel=False) == [call("add", a=1)]


# --- What is no call --------------------------------------------------------------------------------------------------

BROKEN = {
    "hermes": [
        "<tool_call>",
        '\n<tool_call>\n{"name": "add", "argu',
        '<tool_call>{"name": "add", "arguments": {]}</tool_call> and more',
        '<tool_call>{"name": 3}</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": "add", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "add", "arguments": {"a": NaN}}</tool_call>',
        '<tool_call>{"name": "add", "arguments": {"a": "\\ud800"}}</tool_call>',
        "<tool_call>" + "[" * 5000 + "</tool_call>",
        "<tool_call></tool_call>",
        "<tool_call>null</tool_call>\n<tool_call>[]</tool_call>",
        "a </tool_call> <tool_cal",
    ],
    "llama3": [
        '{"name": "unknown", "parameters": {}}',
        '{"name": "Bob", "age": 3}',
        '{"name": "add", "para',
        '{"name"; {"type"',
    ],
    "mistral_list": ["[TOOL_CALLS]", "[TOOL_CALLS][]", '[TOOL_CALLS][{"name": "add"', '[TOOL_CALLS]{"name": "add"}x'],
    "mistral_named": [
        "[TOOL_CALLS]add",
        "[TOOL_CALLS]add[ARGS]",
        '[TOOL_CALLS]add[ARGS]{"a": 1',
        "[TOOL_CALLS]add[ARGS]3",
    ],
}


@pytest.mark.parametrize(("family", "text"), [(family, text) for family, texts in BROKEN.items() for text in texts])
def test_a_broken_call_is_content_letter_for_letter(family: str, text: str) -> None:
    assert parse(family, [text]) == [content(text)]
    assert parse(family, list(text)) == [content(text)]


def test_calls_after_a_broken_one_are_found() -> None:
    text = "<tool_call>{</tool_call>\n" + HERMES.write("add", {"a": 1})
    assert parse("hermes", [text]) == [content("<tool_call>{</tool_call>"), call("add", a=1)]


# --- Streams ----------------------------------------------------------------------------------------------------------

MARKS = {
    "hermes": ["<tool_call>", "</tool_call>"],
    "qwen": ["<tool_call>", "</tool_call>", "<think>", "</think>"],
    "llama3": ['{"name": ', "<|python_tag|>", '"parameters": ', ";"],
    "mistral_list": ["[TOOL_CALLS]", "]", "</s>"],
    "mistral_named": ["[TOOL_CALLS]", "[ARGS]", "</s>"],
    "harmony": ["<|start|>assistant", "<|channel|>", "analysis<|message|>", "final<|message|>", "<|end|>"],
}
PLAIN = ["a", " ", "\n", "é😀", "<", "{", "}", '"', "[", "th", "ink>", "4."]


@st.composite
def answers(draw: st.DrawFn, family: str) -> str:
    """Texts, reasoning, calls, and everything that nearly is one of these."""
    form = FORMS[family]
    calls = [several(form, ("add", {"a": 1})), several(form, ("add", {"a": 1}), ("say", {"text": "a </b> } ]"}))]
    pieces = [*PLAIN, *MARKS[family], *calls, calls[0][:-3], "<think>\nso\n</think>\n\n"]
    return "".join(draw(st.lists(st.sampled_from(pieces), max_size=12)))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data(), family=st.sampled_from(list(FORMS)))
def test_the_joined_stream_is_the_whole_answer(data: st.DataObject, family: str) -> None:
    text = data.draw(answers(family))
    whole = parse(family, [text])
    assert parse(family, list(text)) == whole
    assert parse(family, cut(text, data.draw(st.lists(st.integers(0, 1000), max_size=8)))) == whole


WORDS = st.text("ab é😀.\n", min_size=1, max_size=8).map(str.strip).filter(bool)
ARGUMENTS = st.dictionaries(
    st.sampled_from("abc"), st.one_of(st.integers(), st.text("x}]\"'<é", max_size=5)), max_size=2
)
CALLS = st.lists(st.tuples(st.sampled_from(["add", "say"]), ARGUMENTS), min_size=0, max_size=3)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    family=st.sampled_from(list(FORMS)),
    reasoning=st.none() | WORDS,
    text=st.none() | WORDS,
    calls=CALLS,
    borders=st.lists(st.integers(0, 1000), max_size=8),
)
def test_a_message_is_what_it_was_when_it_was_written(
    family: str, reasoning: str | None, text: str | None, calls: list[tuple[str, dict[str, Any]]], borders: list[int]
) -> None:
    expected: list[Part] = [content(text)] if text else []
    expected += [call(name, **arguments) for name, arguments in calls]
    written = (text or "") + ("\n" if text and calls else "") + (several(FORMS[family], *calls) if calls else "")
    if reasoning and family == "qwen":
        expected = [TextPart("reasoning", reasoning), *expected]
        written = f"<think>\n{reasoning}\n</think>\n\n{written}"
    assert parse(family, cut(written, borders)) == expected


def test_text_is_shown_as_it_comes() -> None:
    parser = parser_of("qwen")
    shown = [parser.feed(piece) for piece in ["It", " is", " 4", "."]]
    assert shown == [(content("It"),), (content(" is"),), (content(" 4"),), (content("."),)]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("family", FORMS)
def test_a_megabyte_of_white_space_takes_no_time(family: str) -> None:
    parser = parser_of(family)
    shown = [part for _ in range(1000) for part in parser.feed(" \n" * 500)]
    shown += [*parser.feed("x"), *parser.finish()]
    assert joined(shown) == [content(" \n" * 500_000 + "x")]


# --- Formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FORMS)
def test_a_family_is_known_by_its_chat_template(family: str) -> None:
    answer_format = response_format(family)
    assert answer_format.form is FORMS[family]
    assert (answer_format.reasoning is not None) == (family in ("qwen", "harmony"))


def test_a_model_without_tools_and_reasoning_needs_no_parser() -> None:
    assert ResponseFormat.of(chat_tokenizer("plain")) is None
    assert response_format("hermes").is_plain(has_tools=False)
    assert not response_format("hermes").is_plain(has_tools=True)
    assert not response_format("qwen").is_plain(has_tools=False)


def test_a_tokenizers_own_response_template_comes_first() -> None:
    tokenizer = AutoTokenizer.from_pretrained("bundled_model")
    tokenizer.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "<|assistant|>",
        "fields": {
            "thinking": {"open": "(", "close": ")", "content": "text"},
            "tool_calls": {
                "open": "<tool_call>",
                "close": "</tool_call>",
                "repeats": True,
                "content": "json",
                "transform": {"type": "function", "function": "{content}"},
            },
            "content": {"close": "<|eos|>", "content": "text"},
        },
    }
    own = ResponseFormat.of(tokenizer)
    assert own is not None
    assert own.form is HERMES
    assert own.reasoning == ("(", ")")
    parser = own.parser(own.begun("(<|user|>Hi<|assistant|>"), TOOLS)
    text = "(so) It is." + HERMES.write("add", {"a": 1}) + "<|eos|>"
    parts = joined([*parser.feed(text), *parser.finish()])
    assert parts == [TextPart("reasoning", "so"), content("It is."), call("add", a=1)]


def test_special_tokens_that_mark_the_parts_are_kept() -> None:
    assert response_format("mistral_named").keeps("[TOOL_CALLS]")
    assert response_format("mistral_named").keeps("[ARGS]")
    assert response_format("llama3").keeps("<|python_tag|>")
    assert not response_format("hermes").keeps("<eos>")
