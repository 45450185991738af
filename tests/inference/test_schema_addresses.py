"""Addresses in a JSON schema are not looked up, and refuse no request that does not need them."""

import json
from typing import Any

import pytest
from llguidance import LLMatcher

from inference.text.grammar_source import json_schema
from inference.text.schema_addresses import without_addresses

NUMBER = {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}}


@pytest.mark.parametrize(
    "addresses",
    [
        {"$id": "Output Format"},
        {"$id": "https://example.com/number", "$schema": "https://example.com/dialect"},
        {"$schema": "http://json-schema.org/schema#"},
        {"$schema": "https://json-schema.org/draft-07/schema#"},
        {"$schema": "http://json-schema.org/draft/2020-12/schema"},
        {"$schema": "https://spec.openapis.org/oas/3.1/dialect/base"},
        {"$schema": 7, "$id": 7},
    ],
)
def test_addresses_that_nothing_needs_are_no_reason_to_refuse(addresses: dict[str, Any]) -> None:
    written = json.dumps(json_schema(NUMBER | addresses))
    assert LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(written)) == ""


@pytest.mark.parametrize(
    ("came", "known"),
    [
        ("https://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-04/schema"),
        ("http://json-schema.org/draft/2019-09/schema", "https://json-schema.org/draft/2019-09/schema"),
    ],
)
def test_a_draft_is_known_by_either_scheme(came: str, known: str) -> None:
    assert without_addresses({"$schema": came, "type": "integer"}) == {"$schema": known, "type": "integer"}


def test_an_address_that_a_reference_begins_with_stays() -> None:
    schema = {"$id": "https://example.com/a", "properties": {"n": {"$ref": "https://example.com/a#/$defs/n"}}}
    assert without_addresses(schema) == schema


def test_the_request_s_own_schema_stays_as_it_was() -> None:
    schema = NUMBER | {"$id": "a b", "$schema": "x"}
    without_addresses(schema)
    assert schema == NUMBER | {"$id": "a b", "$schema": "x"}
