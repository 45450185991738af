"""Where a schema leaves choices open it is narrowed; its own constraints are kept."""

from typing import Any

import pytest

from inference.text.narrowed_schemas import LARGEST, narrowed
from tests.support.json_schemas import random_schema

INTEGER, NUMBER = {"type": "integer"}, {"type": "number"}
BOUNDED = {"type": "integer", "minimum": -LARGEST, "maximum": LARGEST}


def test_an_object_has_the_properties_that_are_listed_and_no_others() -> None:
    inner = {"type": "object", "properties": {"b": {"type": "string"}}}
    schema = {"type": "object", "properties": {"a": inner}, "$defs": {"c": inner}}
    closed = inner | {"additionalProperties": False}
    assert narrowed(schema) == {
        "type": "object",
        "properties": {"a": closed},
        "$defs": {"c": closed},
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"properties": {"a": {}}, "additionalProperties": True},
        {"properties": {"a": {}}, "required": ["b"]},
        {"patternProperties": {"^b": {}}, "required": ["b"]},
        {"properties": {"a": {}}, "minProperties": 2},
        {"properties": {"a": {}}, "anyOf": [{"required": ["a"]}, {"properties": {"b": {}}}]},
        {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
        {"$defs": {"c": {"properties": {"a": {}}}}, "$ref": "#/$defs/c", "properties": {"b": {}}},
        {"$defs": {"c": {"properties": {"a": {}}}}, "$ref": "#/$defs/c", "patternProperties": {"^b": {}}},
    ],
)
def test_an_object_that_may_have_more_stays_open(schema: dict[str, Any]) -> None:
    assert narrowed(schema) == schema


def test_an_object_has_the_properties_whose_names_match_a_pattern_and_no_others() -> None:
    schema: dict[str, Any] = {"patternProperties": {"^b": {}}}
    assert narrowed(schema) == schema | {"additionalProperties": False}


def test_names_that_a_pattern_spells_out_are_properties() -> None:
    schema = {
        "properties": {"a": {"maximum": 3}},
        "patternProperties": {"^(a|b)$": INTEGER, "^c$": {}, "^d": {}, "e$": {}, "^f|g$": {}},
        "additionalProperties": False,
    }
    assert narrowed(schema) == {
        "properties": {"a": {"allOf": [{"maximum": 3}, BOUNDED]}, "b": BOUNDED, "c": {}},
        "patternProperties": {"^d": {}, "e$": {}, "^f|g$": {}},
        "additionalProperties": False,
    }


def test_alternatives_are_closed_each_for_itself() -> None:
    alternatives: list[dict[str, Any]] = [{"properties": {name: {}}} for name in "ab"]
    closed = [alternative | {"additionalProperties": False} for alternative in alternatives]
    assert narrowed({"anyOf": alternatives}) == {"anyOf": closed}


@pytest.mark.parametrize(
    ("schema", "bounded"),
    [
        (INTEGER, BOUNDED),
        ({"type": ["null", "integer"]}, BOUNDED | {"type": ["null", "integer"]}),
        ({"items": INTEGER}, {"items": BOUNDED}),
        ({"anyOf": [INTEGER, {"type": "null"}]}, {"anyOf": [BOUNDED, {"type": "null"}]}),
        ({"type": "integer", "minimum": 0}, {"type": "integer", "minimum": 0, "maximum": LARGEST}),
        ({"type": "integer", "exclusiveMaximum": 9}, {"type": "integer", "exclusiveMaximum": 9, "minimum": -LARGEST}),
        (INTEGER | {"minimum": -(2**63), "maximum": 2**63 - 1}, BOUNDED),
        (INTEGER | {"minimum": 0, "exclusiveMaximum": 2**64}, INTEGER | {"minimum": 0, "maximum": LARGEST}),
        (NUMBER | {"minimum": -3.4e38, "exclusiveMaximum": 3.4e38}, BOUNDED | NUMBER),
        (NUMBER | {"minimum": 0, "maximum": 1.7e308}, NUMBER | {"minimum": 0, "maximum": LARGEST}),
    ],
)
def test_an_integer_has_bounds_and_a_number_no_wider_ones(schema: dict[str, Any], bounded: dict[str, Any]) -> None:
    assert narrowed(schema) == bounded


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "number"},
        {"type": ["integer", "number"]},
        {"type": "integer", "minimum": 2**60},
        {"type": "integer", "multipleOf": 5},
        {"type": "integer", "enum": [2**60]},
        {"const": {"type": "integer", "properties": {}}},
        {"enum": [{"type": "integer"}], "default": {"type": "integer"}},
    ],
)
def test_what_has_bounds_or_is_no_integer_stays_as_it_is(schema: dict[str, Any]) -> None:
    assert narrowed(schema) == schema


def test_a_second_has_at_most_nine_digits_after_its_point() -> None:
    assert narrowed({"type": "string", "format": "date-time"})["maxLength"] == 35
    assert narrowed({"items": {"format": "time", "maxLength": 8}}) == {"items": {"format": "time", "maxLength": 8}}
    assert "maxLength" not in narrowed({"type": "string", "format": "date"})


def test_properties_may_have_the_names_of_keywords() -> None:
    schema = {"properties": {"enum": INTEGER, "properties": INTEGER, "type": {"type": "string"}}}
    properties = {"enum": BOUNDED, "properties": BOUNDED, "type": {"type": "string"}}
    assert narrowed(schema) == {"properties": properties, "additionalProperties": False}


def test_a_schema_that_leaves_nothing_open_stays_as_it_is() -> None:
    for seed in range(100):
        assert narrowed(random_schema(seed)) == random_schema(seed)
