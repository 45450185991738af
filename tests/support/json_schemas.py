"""Random JSON schemas of the kind that structured output supports, each with a finite longest answer."""

import json
from random import Random
from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

Schema = dict[str, Any]
NAMES = ["name", "age", "tags", "is open", "naïve", 'q"uote', "数", "x"]
PATTERNS = ["^[a-z]{1,6}$", r"^\d{2}-\d{2}$", "^(yes|no)$", "^[A-Z][a-z]{0,4}( [A-Z][a-z]{0,4})?$"]


def random_schema(seed: int) -> Schema:
    random = Random(seed)
    if random.random() < 0.1:  # a definition that is referred to
        schema = _schema(random, 2)
        return {"$defs": {"thing": schema}, "type": "array", "items": {"$ref": "#/$defs/thing"}, "maxItems": 2}
    return _schema(random, 3)


def is_valid(text: str, schema: Schema) -> bool:
    """Whether a text is JSON that a schema allows, according to another library than the tested one."""
    return bool(Draft202012Validator(schema).is_valid(json.loads(text)))


def _schema(random: Random, depth: int) -> Schema:
    makers = [_boolean, _integer, _number, _string, _pattern, _choice]
    if depth > 0:
        makers = [*makers, _array, _object, _object, _object, _any_of]
    return random.choice(makers)(random, depth)


def _boolean(random: Random, depth: int) -> Schema:
    return random.choice([{"type": "boolean"}, {"type": "null"}, {"type": ["boolean", "null"]}])


def _integer(random: Random, depth: int) -> Schema:
    low = random.randint(-1000, 1000)
    return {"type": "integer", "minimum": low, "maximum": low + random.randint(0, 5000)}


def _number(random: Random, depth: int) -> Schema:
    return {"type": "number", "multipleOf": random.choice([0.5, 0.25, 5]), "minimum": 0, "maximum": 100}


def _string(random: Random, depth: int) -> Schema:
    shortest = random.randint(0, 4)
    return {"type": "string", "minLength": shortest, "maxLength": shortest + random.randint(0, 12)}


def _pattern(random: Random, depth: int) -> Schema:
    return random.choice([{"type": "string", "pattern": random.choice(PATTERNS)}, {"type": "string", "format": "date"}])


def _choice(random: Random, depth: int) -> Schema:
    return random.choice([{"enum": ["red", "grün", 3, None, True]}, {"const": {"a": [1, "two"]}}, {"enum": ["only"]}])


def _array(random: Random, depth: int) -> Schema:
    shortest = random.randint(0, 2)
    return {
        "type": "array",
        "items": _schema(random, depth - 1),
        "minItems": shortest,
        "maxItems": shortest + random.randint(0, 2),
    }


def _object(random: Random, depth: int) -> Schema:
    names = random.sample(NAMES, random.randint(0, 4))
    return {
        "type": "object",
        "properties": {name: _schema(random, depth - 1) for name in names},
        "required": [name for name in names if random.random() < 0.6],
        "additionalProperties": False,
    }


def _any_of(random: Random, depth: int) -> Schema:
    return {"anyOf": [_schema(random, depth - 1) for _ in range(random.randint(1, 3))]}
