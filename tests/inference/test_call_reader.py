"""Tool calls that a grammar guarantees are streamed while they are made, wherever the answer is cut."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interface.events import ArgumentsPart, Part, TextPart, ToolCallPart
from tests.support.answer_parts import calls_of
from tests.support.parsed_answers import FORMS, cut, parser_of, several

NASTY = ["</tool_call>", "<tool_call>", '"', "\\", "}", "{", "]", "; {", "</s>", "[TOOL_CALLS]", "<think>", "é😀", "\n"]
"""What marks a call's borders where it is not in a text."""
VALUES = st.one_of(
    st.integers(),
    st.lists(st.sampled_from(NASTY), max_size=3).map("".join),
    st.lists(st.dictionaries(st.sampled_from("ab}"), st.sampled_from(NASTY), max_size=2), max_size=2),
)
CALLS = st.lists(
    st.tuples(st.sampled_from(["add", "say"]), st.dictionaries(st.sampled_from("abc"), VALUES, max_size=2)),
    min_size=1,
    max_size=3,
)


def read(family: str, pieces: Sequence[str]) -> list[Part]:
    parser = parser_of(family, guaranteed=FORMS[family])
    return [*(part for piece in pieces for part in parser.feed(piece)), *parser.finish()]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(list(FORMS)), st.booleans(), CALLS, st.lists(st.integers(0, 1000), max_size=8))
def test_calls_are_what_they_were_when_they_were_written(
    family: str, has_content: bool, calls: list[tuple[str, dict[str, Any]]], borders: list[int]
) -> None:
    content = "Let me see." if has_content else ""
    parts = read(family, cut(content + several(FORMS[family], *calls), borders))
    assert calls_of(parts) == [(name, json.dumps(arguments)) for name, arguments in calls]
    assert "".join(part.text for part in parts if isinstance(part, TextPart)) == content


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(list(FORMS)), CALLS, st.integers(0, 1000))
def test_a_call_that_is_cut_off_is_the_beginning_of_that_call(
    family: str, calls: list[tuple[str, dict[str, Any]]], place: int
) -> None:
    text = several(FORMS[family], *calls)
    whole = calls_of(read(family, [text]))
    parts = read(family, list(text[: place % len(text)]))
    cut_off = calls_of(parts)
    for beginning, (name, arguments) in zip(cut_off, whole, strict=False):
        assert beginning[0] == name
        assert arguments.startswith(beginning[1])
    assert cut_off[:-1] == whole[: max(0, len(cut_off) - 1)]
    shown = "".join(part.text for part in parts if isinstance(part, TextPart))
    assert text[: place % len(text)].rstrip().endswith(shown.strip())  # of a call that had no name yet


@pytest.mark.parametrize("family", FORMS)
def test_the_name_comes_first_and_the_arguments_as_they_are_made(family: str) -> None:
    parser = parser_of(family, guaranteed=FORMS[family])
    form = FORMS[family]
    assert parser.feed(form.begin + form.before("add")) == ()
    assert parser.feed('{"a": ') == (ToolCallPart("add", '{"a": ', is_whole=False),)
    assert parser.feed("1") == (ArgumentsPart("1"),)
    assert parser.feed("}") == (ArgumentsPart("}"),)


@pytest.mark.parametrize("family", FORMS)
@pytest.mark.parametrize("calls", [(), (("say", {"text": "yes"}),)])
def test_a_call_that_is_cut_off_before_its_arguments_is_not_sent(
    family: str, calls: tuple[tuple[str, dict[str, Any]], ...]
) -> None:
    text = several(FORMS[family], *calls, ("add", {"a": 1}))
    begun = text[: text.rindex("add") + 3]
    first_whole = text.index('"yes"}') + len('"yes"}') if calls else 1
    for place in range(first_whole, len(begun)):
        parser = parser_of(family, guaranteed=FORMS[family], has_content=False)
        parts = [*(part for piece in begun[:place] for part in parser.feed(piece)), *parser.finish()]
        assert not [part for part in parts if isinstance(part, TextPart)]
        assert calls_of(parts) == [(name, json.dumps(arguments)) for name, arguments in calls]
