"""Calls and reasoning in the forms of many families, wherever the text is cut."""

import json
import re
import time
from typing import Any

import pytest

from inference.text.response_format import ResponseFormat
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
MINIMAX_M1 = (
    '<tool_calls>\n{"name": "weather", "arguments": {"city": "Paris", "days": 3}}\n'
    '{"name": "now", "arguments": {}}\n</tool_calls>'
)
COHERE = (
    '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "weather", "parameters": {"city": "Paris", "days": 3}}'
    ',\n    {"tool_call_id": "1", "tool_name": "now", "parameters": {}}\n]<|END_ACTION|>'
)
GEMMA = '<|tool_call>call:weather{city:<|"|>Paris<|"|>,days:3}<tool_call|><|tool_call>call:now{}<tool_call|>'
FUNCTION_GEMMA = (
    "<start_function_call>call:weather{city:<escape>Paris<escape>,days:3}<end_function_call>"
    "<start_function_call>call:now{}<end_function_call>"
)
LFM2 = "<|tool_call_start|>[weather(city='Paris', days=3), now()]<|tool_call_end|>"
OLMO = '<function_calls>\nweather(city="Paris", days=3)\nnow()\n</function_calls>'
APERTUS = '<|tools_prefix|>[{"weather": {"city": "Paris", "days": 3}}, {"now": {}}]<|tools_suffix|>'
INTERNLM = (
    '<|action_start|><|plugin|>\n{"name": "weather", "parameters": {"city": "Paris", "days": 3}}<|action_end|>\n'
    '<|action_start|><|plugin|>\n{"name": "now", "parameters": {}}<|action_end|>'
)
LONGCAT = (
    '<longcat_tool_call>\n{"name": "weather", "arguments": {"city": "Paris", "days": 3}}\n</longcat_tool_call>\n'
    '<longcat_tool_call>\n{"name": "now", "arguments": {}}\n</longcat_tool_call>'
)
FUNCTIONARY = '<function=weather>{"city": "Paris", "days": 3}</function><function=now>{}</function>'
MINICPM = (
    '<function name="weather"><param name="city">Paris</param><param name="days">3</param></function>\n'
    '<function name="now"></function>'
)
HY3 = (
    "<tool_calls:opensource>\n<tool_call:opensource>weather<tool_sep:opensource>\n"
    "<arg_key:opensource>city</arg_key:opensource>\n<arg_value:opensource>Paris</arg_value:opensource>\n"
    "<arg_key:opensource>days</arg_key:opensource>\n<arg_value:opensource>3</arg_value:opensource>\n"
    "</tool_call:opensource>\n<tool_call:opensource>now<tool_sep:opensource>\n</tool_call:opensource>\n"
    "</tool_calls:opensource>"
)
SOLAR = (
    "<|tool_calls|><|tool_call:begin|>a1b2c3d4e5<|tool_call:name|>weather<|tool_call:args|>"
    '{"city": "Paris", "days": 3}<|tool_call:end|>'
    "<|tool_call:begin|>f6g7h8i9j0<|tool_call:name|>now<|tool_call:args|>{}<|tool_call:end|><|calls|>"
)
ACTION = (
    'Action:\n```json\n[\n    {\n        "tool_name": "weather",\n        "parameters": {\n'
    '            "city": "Paris",\n            "days": 3\n        }\n    },\n'
    '    {\n        "tool_name": "now",\n        "parameters": {}\n    }\n]```'
)
CLOSED = {
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
    "minimax-m1": MINIMAX_M1,
    "cohere": COHERE,
    "gemma": GEMMA,
    "functiongemma": FUNCTION_GEMMA,
    "lfm2": LFM2,
    "olmo": OLMO,
    "apertus": APERTUS,
    "internlm": INTERNLM,
    "longcat": LONGCAT,
    "functionary": FUNCTIONARY,
    "minicpm": MINICPM,
    "hy3": HY3,
    "solar": SOLAR,
    "action": ACTION,
}
"""Calls that have an end of their own."""
OPEN = {
    "granite": f"<|tool_call|>{LISTED}",
    "xlam": LISTED,
    "gigachat": '<|function_call|>{"name": "weather", "arguments": {"city": "Paris", "days": 3}}<|message_sep|>\n\n'
    '<|function_call|>{"name": "now", "arguments": {}}',
    "gigachat-3": "<|message_sep|>\n\nfunction call<|role_sep|>\n"
    '{"name": "weather", "arguments": {"city": "Paris", "days": 3}}'
    '<|message_sep|>\n\nfunction call<|role_sep|>\n{"name": "now", "arguments": {}}',
    "llama4": '<|python_start|>{"name": "weather", "parameters": {"city": "Paris", "days": 3}}; '
    '{"name": "now", "parameters": {}}<|eot|>',
    "prompted": '>>>weather\n{"city": "Paris", "days": 3}>>>now\n{}',
}
"""Calls that go on to the end of the answer."""
WRITTEN = CLOSED | OPEN
KNOWN_BY = {
    "action": "Write 'Action:', or use the `directly-answer` tool",
    "xlam": "make calls in a single JSON array",
    "llama4": "<|header_start|> tools",
    "prompted": ">>>${recipient}",
}
"""What is in a family's template, where its calls do not tell it."""


def template_of(family: str) -> str:
    """A chat template, which is known by what is in it."""
    return KNOWN_BY.get(family, WRITTEN[family])


def format_of(template: str) -> ResponseFormat:
    tokenizer = chat_tokenizer("plain")
    tokenizer.chat_template = template
    found = ResponseFormat.of(tokenizer)
    assert found is not None
    return found


def parse(template: str, text: str, tools: Any = (WEATHER, NOW)) -> list[Part]:
    """The parts of an answer, which must be the same however it is cut."""
    found, answers = format_of(template), []
    for pieces in ([text], list(text), [text[:40], text[40:]]):
        parser = found.parser("", tools)
        parts = [part for piece in pieces for part in parser.feed(piece)]
        answers.append(joined([*parts, *parser.finish()]))
    assert answers[0] == answers[1] == answers[2]
    return answers[0]


@pytest.mark.parametrize("family", WRITTEN)
def test_calls_are_found_after_a_text(family: str) -> None:
    text, template = WRITTEN[family], template_of(family)
    assert parse(template, text) == CALLS
    assert parse(template, f"I look.\n\n{text}\n") == [TextPart("content", "I look."), *CALLS]


@pytest.mark.parametrize("family", WRITTEN)
def test_special_tokens_that_mark_calls_are_kept(family: str) -> None:
    found = format_of(template_of(family))
    marks = re.findall(r"<\|[^<>]{1,30}>|<[^<>\s]{1,30}\|>|<｜[^<>]+｜>|<escape>", WRITTEN[family])
    assert [mark for mark in marks if not found.keeps(mark)] == []


@pytest.mark.parametrize("city", ["\nParis\n", "\n\n  Paris", "Paris\n\n", "\n"])
@pytest.mark.parametrize("family", WRITTEN)
def test_a_text_keeps_its_line_breaks(family: str, city: str) -> None:
    template = template_of(family)
    if (form := format_of(template).form) is not None:
        assert parse(template, form.write("weather", {"city": city})) == [
            ToolCallPart("weather", json.dumps({"city": city}))
        ]


@pytest.mark.parametrize("family", CLOSED)
def test_what_follows_the_calls_is_content(family: str) -> None:
    text = WRITTEN[family]
    assert parse(template_of(family), f"{text}\nSo it is.") == [*CALLS, TextPart("content", "So it is.")]


@pytest.mark.parametrize("family", WRITTEN)
def test_without_tools_a_call_is_content(family: str) -> None:
    text = WRITTEN[family]
    template = template_of(family) + "<think>"  # so that there is something to find
    assert parse(template, text, tools=None) == [TextPart("content", text)]


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("deepseek-v3", DEEPSEEK_V3.replace('"Paris"', "Paris").replace("{}", "{")),
        ("deepseek-v3.1", DEEPSEEK_V31.replace('"Paris"', "Paris").replace("{}", "{")),
        ("kimi", KIMI.replace('"Paris"', "Paris").replace("{}", "{")),
        ("nemotron", WRITTEN["nemotron"].replace('"Paris"', "Paris")),
        ("minimax", "I end </minimax:tool_call> nothing."),
        ("seed", SEED.split("\n<seed")[0].replace("3</parameter>", "3")),
        ("glm", GLM.split("\n<tool")[0].replace("3</arg_value>", "3")),
        ("minimax", MINIMAX[: MINIMAX.index("</parameter>")]),
        ("minicpm", '<function name="weather"><param name="city">Paris</function>'),
        ("minimax-m1", MINIMAX_M1.replace('"Paris"', "Paris")),
        ("cohere", COHERE.replace('"Paris"', "Paris")),
        ("gemma", '<|tool_call>call:weather{city:<|"|>Paris}<tool_call|>'),
        ("gemma", "<|tool_call>call:weather{city:Paris}<tool_call|>"),
        ("gemma", "<|tool_call>call:weather{} and so on<tool_call|>"),
        ("functiongemma", "<start_function_call>call:weather{days:}<end_function_call>"),
        ("lfm2", "<|tool_call_start|>[weather('Paris')]<|tool_call_end|>"),
        ("lfm2", "<|tool_call_start|>[weather(city='Paris'), now(]<|tool_call_end|>"),
        ("lfm2", "<|tool_call_start|>[weather(city=open('x'))]<|tool_call_end|>"),
        ("lfm2", "<|tool_call_start|>[weather(days=3"),
        ("olmo", "<function_calls>\nweather(city=Paris)\n</function_calls>"),
        ("olmo", "<function_calls>\nweather(city='\\ud83d')\n</function_calls>"),
        ("apertus", "<|tools_prefix|>[3]<|tools_suffix|>"),
        ("apertus", '<|tools_prefix|>[{"weather": 3}]<|tools_suffix|>'),
        ("internlm", "<|action_start|><|plugin|>weather<|action_end|>"),
        ("longcat", "<longcat_tool_call>weather</longcat_tool_call>"),
        ("functionary", '<function=weather>{"city": Paris}</function>'),
        ("granite", f"<|tool_call|>{LISTED[:-1]}"),
        ("xlam", '[{"name": "sing", "arguments": {}}]'),
        ("xlam", '[{"name": "weather", "days": 3}'),
        ("gigachat", '<|function_call|>{"name": "weather"<|message_sep|>'),
        ("hy3", HY3.split("\n<tool_call:opensource>now")[0].replace("3</arg_value", "3</value")),
        ("solar", SOLAR.replace('"Paris"', "Paris").replace("{}", "{")),
        ("action", ACTION.replace('"Paris"', "Paris")),
        ("action", 'Action: ```json\n[{"tool_name": "directly-answer", "parameters": {}}]```'),
    ],
)
def test_a_broken_call_is_content_letter_for_letter(family: str, text: str) -> None:
    assert parse(template_of(family), text) == [TextPart("content", text)]


NESTED = {"city": 'L"Île 😀\n', "tags": ["a, b:c", "[d](e)={f}"], "at": {"x": -1.5e2, "is open": True, "y": None}}


@pytest.mark.parametrize(
    ("family", "text"),
    [
        (
            "lfm2",
            "<|tool_call_start|>[weather(city='L\"Île \\ud83d\\ude00\\n', tags=['a, b:c', \"[d](e)={f}\"], "
            "at={'x': -1.5e2, 'is open': True, 'y': None})]<|tool_call_end|>",
        ),
        (
            "olmo",
            '<function_calls>weather(city="L\\"Île 😀\\n", tags=["a, b:c", "[d](e)={f}"], '
            'at={"x": -150.0, "is open": true, "y": null})</function_calls>',
        ),
        (
            "gemma",
            '<|tool_call>call:weather{city:<|"|>L"Île 😀\n<|"|>,tags:[<|"|>a, b:c<|"|>,<|"|>[d](e)={f}<|"|>],'
            'at:{x:-150.0,"is open":true,<|"|>y<|"|>:null}}<tool_call|>',
        ),
    ],
)
def test_values_may_nest_and_texts_may_look_like_the_notation(family: str, text: str) -> None:
    assert parse(template_of(family), text) == [ToolCallPart("weather", json.dumps(NESTED, ensure_ascii=False))]


@pytest.mark.parametrize("name", ["get-weather", "server.tool", "from"])
def test_a_function_and_its_parameters_need_not_have_names_that_python_allows(name: str) -> None:
    text = f"<|tool_call_start|>[{name}(from='a', in=1)]<|tool_call_end|>"
    assert parse(LFM2, text, [tool(name)]) == [ToolCallPart(name, '{"from": "a", "in": 1}')]


@pytest.mark.parametrize(
    ("template", "opening", "closing"),
    [
        (COHERE, "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        (COHERE, "<|START_TEXT|>", "<|END_TEXT|>"),
        ("<think><answer><tool_calls>", "<answer>\n", "\n</answer>"),
        ("<think><response><tool_call>", "<response>\n", "\n</response>\n"),
    ],
)
def test_tags_around_an_answer_are_left_out(template: str, opening: str, closing: str) -> None:
    assert parse(template, f"{opening}It is 4.{closing}") == [TextPart("content", "It is 4.")]
    assert parse(template, "It is 4.") == [TextPart("content", "It is 4.")]


@pytest.mark.parametrize("tools", [(WEATHER, NOW), None], ids=["with tools", "without"])
@pytest.mark.parametrize("end", ["\n[END FINAL RESPONSE]", "\n[END FINAL RESPONSE]\n", "[END FINAL RESPONSE]", ""])
def test_the_tags_of_apriel_are_no_part_of_its_answer(end: str, tools: Any) -> None:
    template = "Here are my reasoning steps:\n [BEGIN FINAL RESPONSE] [END FINAL RESPONSE] <tool_calls></tool_calls>"
    answer = f"[BEGIN FINAL RESPONSE]\nIt is 4.{end}"
    assert parse(template, answer, tools) == [TextPart("content", "It is 4.")]
    thought = "Here are my reasoning steps:\nTwo and two.\n"
    parts = [TextPart("reasoning", "Two and two."), TextPart("content", "It is 4.")]
    assert parse(template, thought + answer, tools) == parts
    if tools:
        called = f"{thought}[BEGIN FINAL RESPONSE]\nSo:\n<tool_calls>{LISTED}</tool_calls>{end}"
        assert parse(template, called) == [parts[0], TextPart("content", "So:"), *CALLS]


def test_calls_are_found_within_tags_around_an_answer() -> None:
    text = f"<think>\nI look.\n</think>\n<answer>\nSo:<tool_calls>{LISTED}</tool_calls>\n</answer>"
    expected = [TextPart("reasoning", "I look."), TextPart("content", "So:"), *CALLS]
    assert parse("<think><answer><tool_calls>", text) == expected


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("[THINK]", "[/THINK]"),
        ("<seed:think>", "</seed:think>"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|channel>thought\n", "<channel|>"),
        ("<|inner_prefix|>", "<|inner_suffix|>"),
        ("<think:opensource>", "</think:opensource>"),
        ("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]"),
    ],
)
def test_reasoning_is_found_between_other_tags(opening: str, closing: str) -> None:
    expected = [TextPart("reasoning", "Two and two."), TextPart("content", "It is 4.")]
    template = f"{opening} {closing}".replace("think:opensource", "think{}")  # Hy3's makes its tags with format()
    assert parse(template, f"{opening}Two and two.{closing}\nIt is 4.") == expected


def test_the_messages_of_an_answer_of_solar_open_are_its_parts() -> None:
    thought, content = "<|think|>I look.<|end|><|begin|>assistant", "<|content|>It is 4.<|end|>"
    reasoning = TextPart("reasoning", "I look.")
    assert parse(SOLAR, thought + content) == [reasoning, TextPart("content", "It is 4.")]
    assert parse(SOLAR, thought + SOLAR) == [reasoning, *CALLS]
    assert parse(SOLAR, content.replace("<|end|>", "")) == [TextPart("content", "It is 4.")]


@pytest.mark.parametrize("family", WRITTEN)
def test_however_often_a_call_begins_it_takes_no_time(family: str) -> None:
    text = WRITTEN[family]
    found, begun = format_of(template_of(family)), text[: text.index("Paris")]
    for repeated in (begun * (60_000 // len(begun)), begun + "a" * 60_000, begun + " " * 60_000):
        parser = found.parser("", (WEATHER, NOW))
        began = time.process_time()
        for place in range(0, len(repeated), 100):
            parser.feed(repeated[place : place + 100])
        parser.finish()
        assert time.process_time() - began < 2  # 0.1 s; it was 5 s where it took the square
