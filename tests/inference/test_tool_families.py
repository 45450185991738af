"""Calls and reasoning in the forms of families that a grammar cannot demand, wherever the text is cut."""

import json
from typing import Any

import pytest

from inference.text.response_parser import ResponseFormat
from interface.events import Part, TextPart, ToolCallPart
from tests.support.chat_tokenizers import chat_tokenizer, tool
from tests.support.parsed_answers import joined

WEATHER = tool("weather", city={"type": "string"}, days={"type": "integer"})
NOW = tool("now")
CALLS = [ToolCallPart("weather", json.dumps({"city": "Paris", "days": 3})), ToolCallPart("now", "{}")]

DEEPSEEK_V3 = (
    "<｜tool▁calls▁begin｜>"
    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n"
    '```json\n{"city": "Paris", "days": 3}\n```<｜tool▁call▁end｜>\n'
    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)
DEEPSEEK_V31 = (
    '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Paris", "days": 3}<｜tool▁call▁end｜>'
    "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)
DEEPSEEK_V32 = (
    '<｜DSML｜function_calls>\n<｜DSML｜invoke name="weather">\n'
    '<｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>\n'
    '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
    '<｜DSML｜invoke name="now">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>'
)
KIMI = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>"
    '{"city": "Paris", "days": 3}<|tool_call_end|>'
    "<|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"
)
GLM = (
    "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n"
    "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>"
)
SEED = (
    "<seed:tool_call>\n<function=weather>\n<parameter=city>Paris</parameter>\n<parameter=days>3</parameter>\n"
    "</function>\n</seed:tool_call>\n<seed:tool_call>\n<function=now>\n</function>\n</seed:tool_call>"
)
MINIMAX = (
    '<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">Paris</parameter>\n'
    '<parameter name="days">3</parameter>\n</invoke>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>'
)
LISTED = '[{"name": "weather", "arguments": {"city": "Paris", "days": 3}}, {"name": "now", "arguments": {}}]'
WRITTEN = {
    "deepseek-v3": DEEPSEEK_V3,
    "deepseek-v3.1": DEEPSEEK_V31,
    "deepseek-v3.2": DEEPSEEK_V32,
    "kimi": KIMI,
    "glm": GLM,
    "seed": SEED,
    "minimax": MINIMAX,
    "nemotron": f"<TOOLCALL>{LISTED}</TOOLCALL>",
    "apriel": f"<tool_calls>{LISTED}</tool_calls>",
    "phi": f"<|tool_call|>{LISTED}<|/tool_call|>",
}


def parse(template: str, text: str, tools: Any = (WEATHER, NOW)) -> list[Part]:
    """The parts of an answer, which must be the same however it is cut. A template is known by what is in it."""
    tokenizer = chat_tokenizer("plain")
    tokenizer.chat_template = template
    found = ResponseFormat.of(tokenizer)
    assert found is not None
    answers = []
    for pieces in ([text], list(text), [text[:40], text[40:]]):
        parser = found.parser("", tools)
        parts = [part for piece in pieces for part in parser.feed(piece)]
        answers.append(joined([*parts, *parser.finish()]))
    assert answers[0] == answers[1] == answers[2]
    return answers[0]


@pytest.mark.parametrize("family", WRITTEN)
def test_calls_are_found_after_a_text(family: str) -> None:
    text = WRITTEN[family]
    assert parse(text, text) == CALLS
    assert parse(text, f"I look.\n\n{text}\n") == [TextPart("content", "I look."), *CALLS]


@pytest.mark.parametrize("family", WRITTEN)
def test_what_follows_the_calls_is_content(family: str) -> None:
    text = WRITTEN[family]
    assert parse(text, f"{text}\nSo it is.") == [*CALLS, TextPart("content", "So it is.")]


@pytest.mark.parametrize("family", WRITTEN)
def test_without_tools_a_call_is_content(family: str) -> None:
    text = WRITTEN[family]
    template = text + "<think>"  # so that there is something to find
    assert parse(template, text, tools=None) == [TextPart("content", text)]


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("deepseek-v3", DEEPSEEK_V3.replace('"Paris"', "Paris").replace("{}", "{")),
        ("deepseek-v3.1", DEEPSEEK_V31.replace('"Paris"', "Paris").replace("{}", "{")),
        ("kimi", KIMI.replace('"Paris"', "Paris").replace("{}", "{")),
        ("nemotron", WRITTEN["nemotron"].replace('"Paris"', "Paris")),
        ("minimax", "I end </minimax:tool_call> nothing."),
    ],
)
def test_a_broken_call_is_content_letter_for_letter(family: str, text: str) -> None:
    assert parse(WRITTEN[family], text) == [TextPart("content", text)]


@pytest.mark.parametrize(("opening", "closing"), [("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>")])
def test_reasoning_is_found_between_other_tags(opening: str, closing: str) -> None:
    expected = [TextPart("reasoning", "Two and two."), TextPart("content", "It is 4.")]
    assert parse(f"{opening} {closing}", f"{opening}Two and two.{closing}\nIt is 4.") == expected
