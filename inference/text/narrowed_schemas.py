"""Narrows a JSON schema to what a model should write. Every answer is also valid for the original schema.

Some models, above all small ones, never finish what a schema leaves open. So an object has only the properties that are
listed, by name or by pattern, unless the schema allows others. An integer, or a number whose bounds are wider, gets the
bounds of RFC 8259, section 6, beyond which not all readers of JSON get the same number. The seconds of a time have at
most nine digits after the point.
"""

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from inference.text.grammar_limits import LONGEST_SOURCE, TooLarge

Schema = dict[str, Any]

LARGEST = 2**53 - 1
LOWER, UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
LENGTHS = {"date-time": len("2026-01-31T12:34:56.123456789+00:00"), "time": len("12:34:56.123456789+00:00")}
"""The longest text of formats that have fractions of a second."""
SCHEMAS_BY_NAME = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
DATA = frozenset({"enum", "const", "default", "examples", "required"})
"""Keywords whose values are data and not schemas."""
CONDITIONS = frozenset({"allOf", "not", "if", "dependentSchemas"})
"""Keywords that combine schemas, so that none of them may be narrowed alone."""
ALTERNATIVES = frozenset({"$ref", "anyOf", "oneOf"})
"""Keywords whose schemas apply together with their siblings."""
LISTS = frozenset({"properties", "patternProperties"})
"""Keywords that list properties."""
SAYS_WHAT_ELSE = frozenset({"additionalProperties", "unevaluatedProperties", "minProperties"})

NAMES = re.compile(r"\^(?:([\w-]+)|\((?:\?:)?([\w-]+(?:\|[\w-]+)*)\))\$")
"""A pattern that only some names match, all of which it spells out."""


def narrowed(schema: Mapping[str, Any]) -> Schema:
    """Return a narrowed copy of a schema."""
    copy: Schema = json.loads(json.dumps(schema))
    schemas = list(subschemas(copy))
    for part in schemas:
        if (_is_integer(part) or _is_wide(part)) and not part.keys() & {"enum", "const", "multipleOf"}:
            _bound(part)
        if isinstance(part.get("format"), str) and part["format"] in LENGTHS:
            part.setdefault("maxLength", LENGTHS[part["format"]])
    if not any(map(_joins_objects, schemas)):
        for part in schemas:
            _close(part)
    for part in reversed(schemas):  # those within others first, so that the limit holds for all that is repeated
        _list_names(part)
    return copy


def subschemas(schema: Schema) -> Iterator[Schema]:
    """A schema and all in it. No recursion: a schema may nest deeper than Python's stack."""
    waiting: list[Any] = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            yield part
            for keyword, value in part.items():
                if keyword in SCHEMAS_BY_NAME and isinstance(value, dict):
                    waiting += value.values()
                elif keyword not in DATA:
                    waiting.append(value)


def _is_integer(schema: Schema) -> bool:
    types = schema.get("type")
    types = types if isinstance(types, list) else [types]
    return "integer" in types and "number" not in types


def _is_wide(schema: Schema) -> bool:
    """Whether a number has bounds beyond `LARGEST`, such as those of float32, which llguidance could not write."""
    return any(abs(bound) > LARGEST for bound in _numbers(schema, *LOWER, *UPPER))


def _bound(schema: Schema) -> None:
    low = max(_numbers(schema, *LOWER), default=-math.inf)
    high = min(_numbers(schema, *UPPER), default=math.inf)
    if low < -LARGEST < high:
        schema["minimum"] = -LARGEST
        schema.pop("exclusiveMinimum", None)
    if low < LARGEST < high:
        schema["maximum"] = LARGEST
        schema.pop("exclusiveMaximum", None)


def _numbers(schema: Schema, *keywords: str) -> list[float]:
    return [schema[keyword] for keyword in keywords if isinstance(schema.get(keyword), int | float)]


def _joins_objects(schema: Schema) -> bool:
    """Whether an object may have to satisfy several schemas, each of which lists some of its properties."""
    return bool(schema.keys() & CONDITIONS) or bool(schema.keys() & LISTS and schema.keys() & ALTERNATIVES)


def _close(schema: Schema) -> None:
    """Let an object have the properties that are listed, and no others."""
    if not schema.keys() & LISTS or schema.keys() & SAYS_WHAT_ELSE:
        return
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        return
    if all(isinstance(name, str) and name in properties for name in required):
        schema["additionalProperties"] = False


def _list_names(schema: Schema) -> None:
    """Make properties of the names that a pattern spells out.

    llguidance lets a comma follow the last of them, as if there were more, and then no text matches.
    """
    patterns, properties = schema.get("patternProperties"), schema.get("properties", {})
    if not isinstance(patterns, dict) or not isinstance(properties, dict):
        return
    for pattern, names in [(regex, found[1] or found[2]) for regex in patterns if (found := NAMES.fullmatch(regex))]:
        for name, value_schema in alike(names.split("|"), patterns.pop(pattern)).items():
            properties[name] = {"allOf": [properties[name], value_schema]} if name in properties else value_schema
        schema["properties"] = properties


def alike(names: Collection[str], schema: Any) -> Schema:
    """Properties that have the same schema. Raises ValueError: it is too long to be repeated for each."""
    if (size := len(names) * len(json.dumps(schema))) > LONGEST_SOURCE:
        raise TooLarge(
            f"it has {len(names)} names of properties with the same schema, together {size} characters, and the limit "
            f"is {LONGEST_SOURCE}"
        )
    return dict.fromkeys(names, schema)
