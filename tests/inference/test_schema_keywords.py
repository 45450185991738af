"""Keywords that llguidance does not know are written by those that it does, and notes are no reason to refuse."""

import json
from typing import Any

import pytest
from llguidance import LLMatcher

from inference.text.grammar_limits import LONGEST_SOURCE, TooLarge
from inference.text.grammar_source import json_schema
from inference.text.schema_keywords import in_known_keywords

NUMBER = {"type": "number"}


def refusal_of(schema: dict[str, Any], *, lenient: bool = False) -> str:
    """Why llguidance does not take a schema; empty if it does."""
    written = json.dumps(json_schema(schema, lenient=lenient))
    reason: str = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(written))
    return reason


@pytest.mark.parametrize("name", ["password", "binary", "ulid", "starts_with", "base64"])
def test_a_format_that_json_schema_does_not_define_demands_nothing(name: str) -> None:
    text = {"type": "string", "pattern": "^ab.*"}
    schema = {"type": "object", "properties": {"format": text | {"format": name}}}
    assert in_known_keywords(schema)["properties"] == {"format": text}
    assert refusal_of(schema) == ""


@pytest.mark.parametrize("name", ["date-time", "email", "regex"])
def test_a_format_that_json_schema_defines_stays(name: str) -> None:
    assert in_known_keywords({"items": {"format": name}}) == {"items": {"format": name}}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": NUMBER, "uniqueItems": False},
        NUMBER | {"minimum": -3.4028234663852886e38, "maximum": 3.4028234663852886e38},
        {"type": "array", "items": {"$ref": "#point"}, "$defs": {"p": {"$anchor": "point", "type": "object"}}},
    ],
)
def test_what_libraries_write_is_taken(schema: dict[str, Any]) -> None:
    assert refusal_of(schema) == ""


@pytest.mark.parametrize(
    ("names", "written"),
    [
        ({"type": "string"}, {"additionalProperties": NUMBER}),
        ({"enum": ["a", "b c", 1]}, {"properties": {"a": NUMBER, "b c": NUMBER}, "additionalProperties": False}),
        ({"$ref": "#/$defs/e"}, {"properties": {"a": NUMBER}, "additionalProperties": False}),
        (
            {"type": "string", "pattern": "^[a-z]+$"},
            {"patternProperties": {"^[a-z]+$": NUMBER}, "additionalProperties": False},
        ),
    ],
)
def test_the_names_of_properties_are_listed_or_match_a_pattern(names: dict[str, Any], written: dict[str, Any]) -> None:
    others = {"type": "object", "$defs": {"e": {"title": "E", "type": "string", "enum": ["a"]}}}
    schema = others | {"propertyNames": names, "additionalProperties": NUMBER}
    assert in_known_keywords(schema) == others | written
    assert refusal_of(schema) == ""


@pytest.mark.parametrize(
    "schema",
    [
        {"propertyNames": {"minLength": 2}},
        {"propertyNames": {"enum": ["a"], "minLength": 2}},
        {"propertyNames": {"enum": "a"}},
        {"propertyNames": {"$ref": "#/$defs/none"}},
        {"propertyNames": {"enum": ["a"]}, "properties": {"b": {}}},
        {"propertyNames": {"type": "integer"}},
        {"propertyNames": False},
    ],
)
def test_names_that_cannot_be_written_in_another_way_stay_and_are_refused(schema: dict[str, Any]) -> None:
    assert in_known_keywords(schema) == schema
    assert refusal_of(schema)


@pytest.mark.parametrize("pattern", ["^(?!.*a)b", "(?=a)b", "(?<=a)b", "(?<!a)b", r"(a|b)\1"])
def test_a_pattern_that_looks_around_is_left_out_where_not_all_must_be_enforced(pattern: str) -> None:
    schema = {"type": "object", "properties": {"a": {"pattern": pattern, "maxLength": 9}, "b": {"pattern": "^(?:x)$"}}}
    assert in_known_keywords(schema) == schema
    assert refusal_of(schema)
    assert in_known_keywords(schema, lenient=True)["properties"] == {"a": {"maxLength": 9}, "b": {"pattern": "^(?:x)$"}}
    assert refusal_of(schema, lenient=True) == ""


@pytest.mark.parametrize("keyword", ["propertyNames", "patternProperties"])
def test_a_short_schema_does_not_become_a_huge_one(keyword: str) -> None:
    def mapping(value: dict[str, Any], count: int) -> dict[str, Any]:
        names = [f"n{number}" for number in range(count)]
        if keyword == "propertyNames":
            return {"propertyNames": {"enum": names}, "additionalProperties": value}
        return {"patternProperties": {f"^({'|'.join(names)})$": value}}

    long = {"description": "x" * (LONGEST_SOURCE // 10)}
    assert refusal_of(mapping(long, 9)) == ""
    for schema in (mapping(long, 11), mapping(mapping(mapping({}, 100), 100), 100)):
        with pytest.raises(TooLarge, match="names of properties"):
            json_schema(schema)
