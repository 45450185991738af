"""Custom tools of OpenAI's APIs, whose input is text and not JSON.

A model that knows functions only is offered one with a single parameter, the input. If a format demands a regular
expression, calls are held to it; and to a grammar in Lark's form whose rules do not recurse, which can be written as
one. Any other is only shown to the model, in the function's description: the text is written in JSON, with escapes that
a grammar does not know.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pydantic import model_validator

from contract.bodies import LenientBody
from contract.openai.lark_pattern import pattern_of
from contract.tools import function_tool

INPUT = "input"
FORMAT = (
    "The form of a custom tool's input. A regular expression is enforced, and a grammar in Lark whose rules do not "
    "recurse; any other is only shown to the model."
)
_OPENING = re.compile(rf'[{{,]\s*"{INPUT}"\s*:\s*"')
_CHARACTERS = re.compile(
    r"""(?: [^"\\]
          | \\[^u]
          | \\u(?![dD][89abAB])[0-9a-fA-F]{4}
          | \\u[dD][89abAB][0-9a-fA-F]{2} (?: \\u[0-9a-fA-F]{4} | (?=[^\\]) | (?=\\[^u]) )
        )*""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u....|u....|[^u])", re.DOTALL)
"""Whole characters of a string in JSON, and one that begins with a backslash. The first half of a surrogate pair is not
whole before what follows it.
"""
MOST_BEFORE = 1024
"""Characters of the arguments within which the input begins. A call that is held to its tool has none before it."""


class InputGrammar(LenientBody):
    """What a custom tool's input must match, in Lark's form or as a regular expression."""

    definition: str | None = None
    syntax: Literal["lark", "regex"] | None = None


class InputFormat(InputGrammar):
    """The form of a custom tool's input. Chat completions nest its grammar, responses do not."""

    type: Literal["text", "grammar"] | None = None
    grammar: InputGrammar | None = None

    @property
    def definition_and_syntax(self) -> tuple[str | None, str]:
        held = self.grammar or self
        return held.definition, held.syntax or "lark"

    @model_validator(mode="after")
    def _has_its_grammar(self) -> Self:
        if self.type == "grammar" and self.definition_and_syntax[0] is None:
            raise ValueError("Expected a grammar with its definition, got none")
        return self


def custom_function(name: str, description: str | None, format: InputFormat | None) -> dict[str, Any]:
    """A custom tool in the form that chat templates expect."""
    definition, syntax = (format or InputFormat()).definition_and_syntax
    if definition is None:
        return function_tool(name, description, _parameters({}))
    shown = f"The input must match this grammar ({syntax}):\n{definition}"
    description = shown if description is None else f"{description}\n\n{shown}"
    pattern = definition if syntax == "regex" else pattern_of(definition)
    if pattern is None:
        return function_tool(name, description, _parameters({}))
    return function_tool(name, description, _parameters({"pattern": f"^(?:{pattern})$"}), strict=True)


def _parameters(limits: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {INPUT: {"type": "string", **limits}},
        "required": [INPUT],
        "additionalProperties": False,
    }


@dataclass(slots=True)
class InputReader:
    """Reads a custom tool's input out of a call's arguments, which come in pieces."""

    text: str = ""
    """The input so far."""
    _rest: str = ""
    """What has come and is not read yet: before the input, or the beginning of an escape."""
    _is_open: bool = False
    _is_over: bool = field(default=False, init=False)

    def feed(self, piece: str) -> str:
        """Return what a piece of the arguments adds to the input."""
        if self._is_over:
            return ""
        self._rest += piece
        if not self._is_open:
            if (opening := _OPENING.search(self._rest, 0, MOST_BEFORE)) is None:
                self._is_over = len(self._rest) > MOST_BEFORE
                return ""
            self._is_open, self._rest = True, self._rest[opening.end() :]
        found = _CHARACTERS.match(self._rest)
        assert found is not None
        self._rest = self._rest[found.end() :]
        self._is_over = self._rest.startswith('"')
        read = _unescaped(found.group())
        self.text += read
        return read


def _unescaped(characters: str) -> str:
    """The text that characters of a string in JSON stand for."""
    return _ESCAPE.sub(lambda found: _meaning(found.group()), characters)


def _meaning(escape: str) -> str:
    """One character; a half of a surrogate pair becomes a replacement character, and an unknown escape stays."""
    try:
        text: str = json.loads(f'"{escape}"')
    except ValueError:
        return escape
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
