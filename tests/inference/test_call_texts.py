"""The texts in the arguments of calls may hold what ends calls elsewhere, in every family's form."""

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest

from inference.text.answer_specs import LLAMA3_CALLS
from inference.text.families import FAMILIES, HERMES_FAMILY, Family
from inference.text.response_format import ResponseFormat
from interface.events import Part, TextPart, ToolCallPart
from tests.support.chat_tokenizers import tool
from tests.support.parsed_answers import joined

TOOLS = [tool("say", text={"type": "string"}, times={"type": "integer"})]
WITH_FORM = [family for family in FAMILIES if family.form is not None]
MARKS = (
    *(
        "for (;;) {}; {",
        "```",
        "\n```\n",
        ">>> f()",
        "</s>",
        "[TOOL_CALLS]",
        "<|end|>",
        "<|eot_id|>",
        "<|message_sep|>",
    ),
    *("</tool_call>", "</tool_calls>", "</function>", "</function></tool_call>", "</function>\n</seed:tool_call>"),
    *("</invoke>", "</｜DSML｜invoke>", "</function_calls>", "</TOOLCALL>", "</longcat_tool_call>", "<tool_call|>"),
    *("<end_function_call>", "<|/tool_call|>", "<|END_ACTION|>", "<|action_end|>", "<|tool_call_end|>"),
    *("<｜tool▁call▁end｜>", "</tool_call:opensource>", "<|tools_suffix|>", "<tool_call>", "<think>"),
    *('"', "'", "\\", "\\\\", '\\"', '"}}', "]"),
)


def parse(family: Family, text: str, size: int | None = None, tools: Any = TOOLS) -> list[Part]:
    parser = ResponseFormat.of_family(family, think=None).parser("", tools)
    size = size or len(text)
    pieces = [text[place : place + size] for place in range(0, len(text), size)]
    return joined([*(part for piece in pieces for part in parser.feed(piece)), *parser.finish()])


def sayable(family: Family, marks: Sequence[str]) -> list[str]:
    """The texts that can be written in the family's form."""
    parameters = family.form.parameters if family.form else None
    never = (*parameters.never_in_text[:1], parameters.before_name or "\0") if parameters else ()
    return [mark for mark in marks if not any(text in mark for text in never)]


@pytest.mark.parametrize("family", WITH_FORM)
def test_marks_within_a_text_end_no_call(family: Family) -> None:
    assert family.form is not None
    texts = [text for mark in sayable(family, MARKS) for text in (f"a {mark} b", f"a{mark}{mark}.")]
    for one, other in zip(texts, texts[1:] + texts[:1], strict=True):
        calls: list[tuple[str, dict[str, Any]]] = [("say", {"text": one, "times": 1}), ("say", {"text": other})]
        written = "I say.\n" + family.form.write_all(calls)
        expected = [ToolCallPart(name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in calls]
        assert parse(family, written) == [TextPart("content", "I say."), *expected]
        assert parse(family, written, size=3) == [TextPart("content", "I say."), *expected]


@pytest.mark.parametrize("template", ['<function name="<param name="', "<seed:tool_call>"])
@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("['a', \"b's\", 1, None]", ["a", "b's", 1, None]),
        ('["a"]', ["a"]),
        ("{'a': True}", {"a": True}),
        ("['a', open('b')]", "['a', open('b')]"),
        ("['a'", "['a'"),
        ("3", "3"),
    ],
)
def test_lists_and_objects_may_be_written_as_python_writes_them(template: str, written: str, value: Any) -> None:
    """As the templates of MiniCPM 5 and Seed-OSS show the calls of a conversation to the model."""
    family = next(family for family in FAMILIES if family.is_family(template))
    assert family.form is not None
    both = tool("say", one={"type": ["array", "object"]}, text={"type": ["array", "string"]})
    text = family.form.write("say", {"one": written, "text": "['a']"})
    assert parse(family, text, tools=[both]) == [
        ToolCallPart("say", json.dumps({"one": value, "text": "['a']"}, ensure_ascii=False))
    ]


BROKEN = '<tool_call>{"name": "say", "arguments": {"text": "a}}</tool_call>'
SAID = '<tool_call>{"name": "say", "arguments": {"text": "b"}}</tool_call>'
SAY_B = ToolCallPart("say", '{"text": "b"}')


@pytest.mark.parametrize("between", ["\n", " and ", ""])
@pytest.mark.parametrize("size", [None, 1, 7])
def test_calls_after_one_whose_text_has_no_end_are_found(between: str, size: int | None) -> None:
    text = BROKEN + between + SAID
    shown = TextPart("content", (BROKEN + between).rstrip())
    assert parse(HERMES_FAMILY, text, size) == [shown, SAY_B]


@pytest.mark.parametrize("size", [None, 1, 7])
def test_a_parameter_without_an_end_takes_none_of_the_next_call(size: int | None) -> None:
    coder = next(family for family in FAMILIES if family.is_family("<tool_call> <function="))
    assert coder.form is not None
    whole = coder.form.write("say", {"text": "b"})
    broken = whole.replace("\n</parameter>", "")
    assert parse(coder, f"{broken}\n{whole}", size) == [TextPart("content", broken), SAY_B]


def test_text_after_a_broken_call_is_shown_once_a_line_ends() -> None:
    """No text of JSON goes on to the next line, so the mark that was passed over was the end."""
    parser = ResponseFormat.of_family(HERMES_FAMILY, think=None).parser("", TOOLS)
    assert parser.feed(f"{BROKEN} So") == ()
    assert joined(parser.feed(" it is.\nYes")) == [TextPart("content", f"{BROKEN} So it is.\nYes")]


@pytest.mark.parametrize("unit", ['<tool_call>\\"</tool_call>', '<tool_call>"</tool_call>', SAID, f"{BROKEN}\n"])
def test_however_many_texts_have_no_end_it_takes_no_time(unit: str) -> None:
    text = unit * (300_000 // len(unit))
    for size in (None, 100):
        began = time.process_time()
        parse(HERMES_FAMILY, text, size)
        assert time.process_time() - began < 10  # 1 s; it would be minutes if each searched up to the end


def test_an_answer_of_one_piece_may_hold_any_number_of_calls() -> None:
    llama = next(family for family in FAMILIES if family.calls is LLAMA3_CALLS)
    for family in (HERMES_FAMILY, llama):
        assert family.form is not None
        text = family.form.write_all([("say", {"text": "b"})] * 2000)
        assert parse(family, text) == [SAY_B] * 2000


def test_what_goes_on_with_a_text_of_the_prompt_keeps_its_white_space() -> None:
    """The prompt ends with what may be a mark's beginning, and turns out to be text."""
    answer_format = ResponseFormat.of_family(HERMES_FAMILY, think=None)
    answers = []
    for pieces in (["\nx"], ["\n", "x"]):
        parser = answer_format.parser(f"{SAID}\n<tool", TOOLS)
        answers.append(joined([*(part for piece in pieces for part in parser.feed(piece)), *parser.finish()]))
    assert answers == [[TextPart("content", "\nx")]] * 2
