"""The grammar of an answer, as requests give it: a JSON schema, or vLLM's structured outputs."""

import json
from typing import Any

from pydantic import Field

from contract.bodies import LenientBody
from contract.refusals import Refusal
from contract.tools import object_of
from interface.requests import Grammar

JSON_OBJECT = Grammar("json_schema", '{"type": "object"}')
TAKES_ALL = "A rule of characters alone takes all that match it: `[^\\n]+` leaves no full stop for what follows."
"""For documents: llama.cpp itself would try shorter texts, too, at a hundred times the cost of a step's mask."""


def schema_grammar(schema: Any, param: str) -> Grammar:
    """The grammar that enforces a JSON schema; `param` is the schema's place in the body.

    Raises:
        Refusal: 400, the schema is not JSON.
    """
    try:
        return Grammar("json_schema", json.dumps(schema, allow_nan=False), param)
    except ValueError:
        message = f"{param}: Expected a JSON schema; this one holds NaN or an infinity, which JSON lacks."
        raise Refusal(400, message, param=param) from None


class StructuredOutputs(LenientBody):
    """vLLM's name for a grammar. Exactly one of the fields."""

    json_schema: dict[str, Any] | str | None = Field(default=None, alias="json", description="A JSON schema.")
    regex: str | None = None
    choice: list[str] | None = Field(default=None, min_length=1)
    grammar: str | None = Field(
        default=None,
        description=f"A grammar in Lark's form, as llguidance reads it, or in llama.cpp's (GBNF). {TAKES_ALL}",
    )
    json_object: bool | None = None

    def as_grammar(self) -> Grammar:
        param = "structured_outputs"
        grammars: list[Grammar] = []
        if self.json_schema is not None:
            grammars.append(schema_grammar(parsed_schema(self.json_schema, f"{param}.json"), f"{param}.json"))
        if self.regex is not None:
            grammars.append(Grammar("regex", self.regex))
        if self.choice is not None:
            grammars.append(Grammar("choice", json.dumps(self.choice)))
        if self.grammar is not None:
            grammars.append(Grammar("lark", self.grammar))
        if self.json_object:
            grammars.append(JSON_OBJECT)
        if len(grammars) != 1:
            message = f"{param}: Expected one of json, regex, choice, grammar and json_object; got {len(grammars)}."
            raise Refusal(400, message, param=param)
        return grammars[0]


def parsed_schema(schema: dict[str, Any] | str, param: str) -> Any:
    """A schema that may be written as text. Raises Refusal."""
    return object_of(schema, param) if isinstance(schema, str) else schema
