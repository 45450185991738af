"""What a tool's schema says about each of its parameters, where a model writes them one by one and not as JSON.

A value between two tags says no more of its type than its text does: `3` may be a number or a text. The schema decides.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from inference.text.grammar_limits import referred_to
from inference.text.narrowed_schemas import Schema

MOST_STEPS = 100
"""References, and schemas in schemas, that are followed in one parameter."""
MOST_WORK = 100_000
"""Keywords and values that are looked at in all parameters of a request: many may refer to the same long schema."""
KINDS: Mapping[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
"""The JSON types of values that are not structures."""
CHOICES = ("anyOf", "oneOf")
LISTS = (*CHOICES, "allOf", "enum", "type")
"""Keywords whose values may be long lists."""
ORDER = ("integer", "number", "boolean", "null", "object", "array", "string")
"""In which order a text is read as one of several types."""


class Work:
    """How much may still be looked at, for several parameters together."""

    def __init__(self) -> None:
        self._left = MOST_WORK

    def spend(self, schema: Schema) -> None:
        """Raises ValueError: there is too much."""
        values = next((schema[keyword] for keyword in LISTS if isinstance(schema.get(keyword), list)), ())
        self._left -= len(schema) + len(values)
        if self._left < 0:
            raise ValueError("it is too long, with the parameters before")


def kind_of(value: Any) -> str:
    """The JSON type of a value."""
    return KINDS.get(type(value), "array" if isinstance(value, list) else "object")


def alternatives(schema: Any, root: Mapping[str, Any], work: Work) -> list[Schema]:
    """The schemas of one type each that a value may match.

    Args:
        schema: a parameter's schema.
        root: the schema of all parameters, for references.
        work: what this may take.

    Raises:
        ValueError: it combines schemas in a way that is not understood.
    """
    found: list[Schema] = []
    waiting = [schema]
    for _ in range(MOST_STEPS):
        if not waiting:
            return found
        part = waiting.pop(0)
        if not isinstance(part, dict):
            part = {}
        work.spend(part)
        if (parts := _parts(part, root)) is None:
            found.append(part)
        else:
            waiting = [*parts, *waiting]
    raise ValueError("its references lead too far")


def types(schema: Any, root: Mapping[str, Any], work: Work) -> list[str]:
    """The types of the values that a schema allows; none if it allows all, or is not understood."""
    try:
        found = {alternative.get("type") for alternative in alternatives(schema, root, work)}
    except (ValueError, TypeError):  # a type that is not a name, among others
        return []
    return [name for name in ORDER if name in found] if None not in found else []


def with_plain_types(tools: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tools with nothing but types in their parameters' schemas, which is what transformers reads."""
    work = Work()
    return [_with_plain_types(tool, work) for tool in tools]


def _with_plain_types(tool: Mapping[str, Any], work: Work) -> dict[str, Any]:
    function: Any = tool.get("function")
    parameters: Any = function.get("parameters") if isinstance(function, Mapping) else None
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    if not isinstance(properties, Mapping):
        return dict(tool)
    plain = {name: {"type": types(schema, parameters, work)} for name, schema in properties.items()}
    return {**tool, "function": {**function, "parameters": {"properties": plain}}}


def _parts(schema: Schema, root: Mapping[str, Any]) -> list[Any] | None:
    """The schemas that together mean the same, each simpler; None if this one is simple."""
    if "$ref" in schema:
        if (target := referred_to(root, str(schema["$ref"]))) is None:
            raise ValueError(f"its reference {schema['$ref']!r} leads nowhere")
        return [target]
    if "allOf" in schema:
        rest = {keyword: value for keyword, value in schema.items() if keyword != "allOf"}
        match schema["allOf"]:
            case [dict(only)] if "type" not in rest:
                return [rest | only]
        raise ValueError("it has an 'allOf'")
    for keyword in CHOICES:
        if isinstance(schema.get(keyword), list):
            return list(schema[keyword])
    if isinstance(schema.get("type"), list):
        if len(schema["type"]) > len(ORDER):  # each is given a copy of the schema
            raise ValueError("it has more types than there are")
        return [schema | {"type": name} for name in schema["type"]]
    if "type" not in schema and ("enum" in schema or "const" in schema):
        return [{"enum": list(values), "type": name} for name, values in _by_type(schema)]
    return None


def _by_type(schema: Schema) -> Iterator[tuple[str, list[Any]]]:
    """The values of an `enum` or a `const`, sorted by their types."""
    values = schema["enum"] if isinstance(schema.get("enum"), list) else [schema.get("const")]
    by_type: dict[str, list[Any]] = {}
    for value in values:
        by_type.setdefault(kind_of(value), []).append(value)
    yield from by_type.items()
