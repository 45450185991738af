"""The fields that limit what an answer may be, in OpenAI's dialect and in those of other servers."""

from typing import Any

import pytest

from interface.requests import Grammar
from tests.support.openai_answers import MESSAGES, parse, refused

PATHS: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "x"},
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/responses": {"input": "x"},
}
SCHEMA = {"type": "object"}
FIELDS: list[tuple[str, Any, Grammar]] = [
    ("response_format", {"type": "json_object"}, Grammar("json_schema", '{"type": "object"}')),
    ("structured_outputs", {"regex": "a+"}, Grammar("regex", "a+")),
    ("guided_json", SCHEMA, Grammar("json_schema", '{"type": "object"}')),
    ("guided_json", '{"type": "object"}', Grammar("json_schema", '{"type": "object"}')),
    ("guided_regex", "a+", Grammar("regex", "a+")),
    ("guided_choice", ["yes", "no"], Grammar("choice", '["yes", "no"]')),
    ("guided_grammar", 'start: "a"', Grammar("lark", 'start: "a"')),
    ("json_schema", SCHEMA, Grammar("json_schema", '{"type": "object"}')),
    ("grammar", 'root ::= "a"', Grammar("lark", 'root ::= "a"')),
    ("regex", "a+", Grammar("regex", "a+")),
    ("ebnf", 'root ::= "a"', Grammar("lark", 'root ::= "a"')),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("field", "value", "grammar"), FIELDS)
def test_each_server_s_field_limits_the_answer(path: str, field: str, value: Any, grammar: Grammar) -> None:
    found = parse(path, **PATHS[path], **{field: value}).requests[0].grammar
    assert found == grammar
    assert found.param == field


@pytest.mark.parametrize("path", PATHS)
def test_a_request_without_any_is_free(path: str) -> None:
    body = {"grammar": "", "ebnf": "", "response_format": {"type": "text"}, "guided_regex": None}
    assert parse(path, **PATHS[path], **body).requests[0].grammar is None


@pytest.mark.parametrize("path", PATHS)
def test_two_of_them_are_refused_by_name(path: str) -> None:
    other = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "string"}}}
    for field, value, _ in FIELDS[1:]:
        error = refused(path, **PATHS[path], response_format=other, **{field: value})
        assert "Expected only one of" in error["message"]
        assert error["param"] == field


@pytest.mark.parametrize("path", PATHS)
def test_the_same_grammar_by_two_names_is_one(path: str) -> None:
    grammar = 'start: "a"'
    both = {"guided_grammar": grammar, "structured_outputs": {"grammar": grammar}}
    assert parse(path, **PATHS[path], **both).requests[0].grammar == Grammar("lark", grammar)


def test_the_form_of_a_response_s_text_is_one_of_them() -> None:
    text = {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}
    error = refused("/v1/responses", input="x", text=text, guided_regex="a+")
    assert "Expected only one of text.format and guided_regex" in error["message"]
    assert parse("/v1/responses", input="x", text=text).requests[0].grammar.param == "text.format"
