"""Answers whose calls are elements within elements, as MiniMax M3 and Kimi K3 write them, wherever they are cut."""

import json
from typing import Any

import pytest

from inference.text.response_format import ResponseFormat
from interface.events import Part, TextPart, ToolCallPart
from tests.support.chat_tokenizers import chat_tokenizer, tool
from tests.support.parsed_answers import joined

POINT = {"type": "object", "properties": {"x": {"type": "integer"}, "label": {"type": "string"}}}
TOOLS = [
    tool(
        "weather",
        city={"type": "string"},
        days={"type": "integer"},
        share={"type": "number"},
        now={"type": "boolean"},
        points={"type": "array", "items": POINT},
        tags={"type": "array", "items": {"type": "string"}},
        at={"anyOf": [POINT, {"type": "null"}]},
        any={},
    ),
    tool("now"),
]
M = "]<]minimax[>["
MINIMAX = f"{{% set ns = '{M}' %}}<tool_call><mm:think>tools"
KIMI = "'<|open|>' + tag + '<|sep|>' <think> tools"


def parse(template: str, text: str, begun: str = "", tools: Any = TOOLS) -> list[Part]:
    """The parts of an answer, which must be the same however it is cut."""
    tokenizer = chat_tokenizer("plain")
    tokenizer.chat_template = template
    found = ResponseFormat.of(tokenizer)
    assert found is not None
    answers = []
    for size in (len(text), 1, 7):
        parser = found.parser(found.begun(begun) if begun else "", tools)
        parts = [part for place in range(0, len(text), size) for part in parser.feed(text[place : place + size])]
        answers.append(joined([*parts, *parser.finish()]))
    assert answers[0] == answers[1] == answers[2]
    return answers[0]


def call(name: str, **arguments: Any) -> ToolCallPart:
    return ToolCallPart(name, json.dumps(arguments, ensure_ascii=False))


def minimax(*calls: str) -> str:
    return f"{M}<tool_call>\n" + "".join(f"{M}<invoke name={call}{M}</invoke>\n" for call in calls) + f"{M}</tool_call>"


def element(name: str, value: str) -> str:
    return f"{M}<{name}>{value}{M}</{name}>"


# --- MiniMax M3 -------------------------------------------------------------------------------------------------------


def test_values_of_minimax_m3_have_the_types_of_the_schema() -> None:
    point = element("item", element("x", "1") + element("label", "2"))
    values = {"city": "7</b>\n", "days": "3", "share": "2", "now": "true", "points": point * 2, "any": "5"}
    values |= {"tags": element("item", "8"), "at": element("x", "-4")}
    text = minimax('"weather">' + "".join(element(name, value) for name, value in values.items()), '"now">')
    points = [{"x": 1, "label": "2"}] * 2
    weather = call(
        "weather", city="7</b>\n", days=3, share=2, now=True, points=points, any="5", tags=["8"], at={"x": -4}
    )
    assert parse(MINIMAX, f"I look.{text}\n") == [TextPart("content", "I look."), weather, call("now")]


@pytest.mark.parametrize(("name", "written", "value"), [("tags", "", []), ("at", "null", None), ("at", "", {})])
def test_empty_values_of_minimax_m3_have_the_types_of_the_schema(name: str, written: str, value: Any) -> None:
    assert parse(MINIMAX, minimax(f'"weather">{element(name, written)}')) == [call("weather", **{name: value})]


@pytest.mark.parametrize(
    ("begun", "text"),
    [
        ("", "<mm:think>I look.</mm:think>It is 4."),
        ("]~b]ai\n<mm:think>", "I look.</mm:think>It is 4."),
        ("]~b]ai\n", "<mm:think>I look.</mm:think>\nIt is 4."),
    ],
)
def test_reasoning_of_minimax_m3_is_told_from_its_answer(begun: str, text: str) -> None:
    assert parse(MINIMAX, text, begun) == [TextPart("reasoning", "I look."), TextPart("content", "It is 4.")]


@pytest.mark.parametrize(("begun", "text"), [("", "</mm:think>It is 4."), ("]~b]ai\n</mm:think>", "It is 4.")])
def test_minimax_m3_may_end_reasoning_that_it_has_not_begun(begun: str, text: str) -> None:
    assert parse(MINIMAX, text, begun) == [TextPart("content", "It is 4.")]


@pytest.mark.parametrize(
    "written",
    [
        minimax(f'"weather">{M}<city>Paris'),
        minimax(f'"weather">{M}<city>Paris{M}</town>'),
        minimax('"weather">Paris'),
        minimax(f'"weather">{element("tags", "a" + element("item", "b"))}'),
        minimax('"weather">' + f"{M}<a>" * 100 + f"{M}</a>" * 100),
    ],
)
def test_a_broken_call_of_minimax_m3_is_content(written: str) -> None:
    broken = written.removesuffix(f"\n{M}</tool_call>")
    assert parse(MINIMAX, broken) == [TextPart("content", broken)]


# --- Kimi K3 ----------------------------------------------------------------------------------------------------------


def opened(tag: str, **attributes: object) -> str:
    return f"<|open|>{tag}" + "".join(f' {name}="{value}"' for name, value in attributes.items()) + "<|sep|>"


def closed(tag: str) -> str:
    return f"<|close|>{tag}<|sep|>"


def argument(key: str, kind: str, value: str) -> str:
    return opened("argument", key=key, type=kind) + value + closed("argument")


RESPONSE = opened("response") + "It is 4." + closed("response")
ANSWER = [TextPart("reasoning", "I look."), TextPart("content", "It is 4.")]


@pytest.mark.parametrize("end", ["", closed("message")])
def test_reasoning_of_kimi_k3_is_told_from_its_response(end: str) -> None:
    think = opened("think") + "I look." + closed("think")
    assert parse(KIMI, think + RESPONSE + end) == ANSWER
    begun = opened("message", role="assistant") + opened("think")
    assert parse(KIMI, think.removeprefix(opened("think")) + RESPONSE + end, begun) == ANSWER


def test_calls_of_kimi_k3_say_the_types_of_their_values() -> None:
    arguments = argument("city", "string", "7 <b>\n") + argument("days", "number", "3")
    arguments += argument("a &quot;b&quot;", "array", '[1, {"x": null}]') + argument("now", "boolean", "true")
    calls = opened("call", tool="weather", index=1) + arguments + closed("call")
    calls += opened("call", tool="now", index=2) + closed("call")
    calls += opened("call", tool="now", index=3) + opened("json", type="object") + '{"a": 1}' + closed("json")
    text = RESPONSE + opened("tools") + calls + closed("call") + closed("tools") + closed("message")
    weather = call("weather", city="7 <b>\n", days=3, **{'a "b"': [1, {"x": None}], "now": True})
    assert parse(KIMI, text) == [TextPart("content", "It is 4."), weather, call("now"), call("now", a=1)]


@pytest.mark.parametrize(
    "written",
    [
        opened("call", tool="weather", index=1) + argument("days", "number", "three") + closed("call"),
        opened("call", tool="weather", index=1) + "Paris" + closed("call"),
        opened("call", name="weather") + closed("call"),
        opened("call", tool="weather", index=1) + argument("city", "string", "a").removesuffix("<|sep|>"),
        opened("call", tool="now", index=1) + opened("json", type="object") + "[1]" + closed("json") + closed("call"),
    ],
)
def test_a_broken_call_of_kimi_k3_is_content(written: str) -> None:
    assert parse(KIMI, written) == [TextPart("content", written)]


@pytest.mark.parametrize("template", [MINIMAX, KIMI])
def test_without_tools_a_call_is_content(template: str) -> None:
    written = minimax('"now">') if template == MINIMAX else opened("call", tool="now") + closed("call")
    assert parse(template, written, tools=None) == [TextPart("content", written)]
