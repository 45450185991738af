"""Custom tools of the Responses API, whose input is a text and no JSON.

A model that knows functions only is offered one with a single parameter, the input. A format, such as a grammar of
patches, is shown to the model in the function's description; a call is not held to it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import from_json

INPUT = "input"
PARAMETERS: Mapping[str, Any] = {
    "type": "object",
    "properties": {INPUT: {"type": "string"}},
    "required": [INPUT],
    "additionalProperties": False,
}


def description_of(description: str | None, format: Mapping[str, Any] | None) -> str | None:
    """What a custom tool does, and what form its input must have."""
    definition = None if format is None else format.get("definition")
    if not isinstance(definition, str) or format is None:
        return description
    wanted = f"The input must match this grammar ({format.get('syntax', 'lark')}):\n{definition}"
    return wanted if description is None else f"{description}\n\n{wanted}"


def input_of(arguments: Sequence[str]) -> str:
    """The input in the pieces of a call's arguments, as far as they go."""
    try:
        read = from_json("".join(arguments), allow_partial="trailing-strings")
    except ValueError:
        return ""
    found = read.get(INPUT) if isinstance(read, dict) else None
    return found if isinstance(found, str) else ""
