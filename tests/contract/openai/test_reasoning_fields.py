"""Chat requests turn reasoning off, or leave it out, by the fields of several servers."""

from typing import Any

import pytest

from contract.conversation import thinking_switches
from interface.events import Part, TextPart
from tests.support.openai_answers import MESSAGES, chunks, parse, parsed_tokens, refused, whole

PATH = "/v1/chat/completions"
PARTS: list[tuple[Part, ...]] = [
    (TextPart("reasoning", "h"),),
    (TextPart("reasoning", "m"), TextPart("content", "4")),
    (TextPart("content", "2"),),
]


def call(**body: Any) -> Any:
    return parse(PATH, messages=MESSAGES, **body)


@pytest.mark.parametrize(
    ("body", "thinks"),
    [
        ({"enable_thinking": False}, False),
        ({"enable_thinking": True}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, True),
        ({"reasoning": {"enabled": False}}, False),
        ({"reasoning": {"enabled": True}}, True),
        ({"enable_thinking": False, "thinking": {"type": "enabled"}}, False),
    ],
)
def test_each_field_turns_reasoning_on_or_off(body: dict[str, Any], thinks: bool) -> None:
    assert call(**body).requests[0].prompt.template_arguments == thinking_switches(thinks)


def test_an_effort_has_two_names() -> None:
    wanted = {**thinking_switches(True), "reasoning_effort": "low"}
    assert call(reasoning_effort="low").requests[0].prompt.template_arguments == wanted
    assert call(reasoning={"effort": "low"}).requests[0].prompt.template_arguments == wanted
    both = call(reasoning={"effort": "high"}, reasoning_effort="low")
    assert both.requests[0].prompt.template_arguments == wanted


@pytest.mark.parametrize(
    "body", [{"include_reasoning": False}, {"reasoning": {"exclude": True}}, {"reasoning_format": "hidden"}]
)
def test_reasoning_may_be_left_out_of_the_answer(body: dict[str, Any]) -> None:
    message = whole(call(**body), parsed_tokens(PARTS))["choices"][0]["message"]
    assert (message["content"], "reasoning_content" in message) == ("42", False)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks(call(**body, stream=True), parsed_tokens(PARTS))]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "4"}, {"content": "2"}, {}]


@pytest.mark.parametrize(("format", "is_split"), [("none", False), ("raw", False), ("auto", True), ("parsed", True)])
def test_reasoning_may_stay_in_the_content(format: str, is_split: bool) -> None:
    assert call(reasoning_format=format).requests[0].parse_response is is_split


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"enable_thinking": "no"}, "enable_thinking"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
        ({"reasoning": {"effort": 5}}, "reasoning.effort"),
        ({"reasoning_format": "xml"}, "reasoning_format"),
    ],
)
def test_a_wrong_value_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    assert refused(PATH, messages=MESSAGES, **body)["param"] == param


def test_the_repetition_penalty_has_two_names() -> None:
    assert call(repeat_penalty=1.25).requests[0].params.repetition_penalty == 1.25
    assert call(repeat_penalty=1.25, repetition_penalty=1.5).requests[0].params.repetition_penalty == 1.5
    assert refused(PATH, messages=MESSAGES, repeat_penalty=0)["param"] == "repeat_penalty"
