"""The fields of a request that limit what its answer may be: OpenAI's, and those of other servers' dialects.

vLLM's `guided_` fields are what `structured_outputs` was before; llama.cpp's server takes `grammar` and `json_schema`,
SGLang's `json_schema`, `regex` and `ebnf`. Clients that were written for one of them send these still, and an answer
that ignores them would be wrong.

Source: the protocols of vLLM (0.11), llama.cpp's server and SGLang.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from contract.bodies import LenientBody
from contract.grammars import JSON_OBJECT, TAKES_ALL, StructuredOutputs, parsed_schema, schema_grammar
from contract.refusals import Refusal
from interface.requests import Grammar

OF_VLLM = "An older field of vLLM's; use `structured_outputs`."
GRAMMAR_TEXT = f"A grammar in Lark's form, or in llama.cpp's (GBNF). {TAKES_ALL}"


class JsonSchemaFormat(LenientBody):
    """A JSON schema and its name."""

    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class ResponseFormat(LenientBody):
    """The form of the answer. llama.cpp's clients put the schema next to the type."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")

    def as_grammar(self) -> Grammar | None:
        """Raises Refusal."""
        schema = self.schema_ if self.json_schema is None else self.json_schema.schema_
        return format_grammar(self.type, schema, "response_format.json_schema.schema")


def format_grammar(type: str, schema: dict[str, Any] | None, param: str) -> Grammar | None:
    """The grammar of a response format; `param` is the place of its schema in the body. Raises Refusal."""
    if type == "text":
        return None
    if schema is not None:
        return schema_grammar(schema, param)
    if type == "json_object":
        return JSON_OBJECT
    raise Refusal(400, f"{param}: Expected a JSON schema, got none.", param=param)


class GrammarFields(LenientBody):
    """What the answer must look like. A request has one grammar at most.

    It may be there by several names: guidance's client of vLLM writes it into an old field and a new one.
    """

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = Field(default=None, description=OF_VLLM)
    guided_regex: str | None = Field(default=None, description=OF_VLLM)
    guided_choice: Annotated[list[str], Field(min_length=1)] | None = Field(default=None, description=OF_VLLM)
    guided_grammar: str | None = Field(default=None, description=OF_VLLM)
    json_schema: dict[str, Any] | str | None = Field(
        default=None, description="A JSON schema, as llama.cpp's server and SGLang's take it."
    )
    grammar_: str | None = Field(
        default=None, alias="grammar", description=f"{GRAMMAR_TEXT} llama.cpp's name for it; an empty one is none."
    )
    regex: str | None = Field(default=None, description="A regular expression, as SGLang's server takes it.")
    ebnf: str | None = Field(default=None, description=f"{GRAMMAR_TEXT} SGLang's name for it.")

    def grammar(self) -> Grammar | None:
        """The grammar of the answer, if the request has one. Raises Refusal."""
        found: dict[Grammar, str] = {}
        for name, grammar in self.grammars():
            found.setdefault(grammar, name)
        if len(found) > 1:
            first, second, *_ = found.values()
            raise Refusal(400, f"{second}: Expected only one of {first} and {second}, got both.", param=second)
        return next((replace(grammar, param=name) for grammar, name in found.items()), None)

    def grammars(self) -> Iterator[tuple[str, Grammar]]:
        """The grammars of the request, by the fields that they are in. Raises Refusal."""
        if self.response_format is not None and (wanted := self.response_format.as_grammar()) is not None:
            yield "response_format", wanted
        if self.structured_outputs is not None:
            yield "structured_outputs", self.structured_outputs.as_grammar()
        for name, schema in (("guided_json", self.guided_json), ("json_schema", self.json_schema)):
            if schema is not None:
                yield name, schema_grammar(parsed_schema(schema, name), name)
        if self.guided_choice is not None:
            yield "guided_choice", Grammar("choice", json.dumps(self.guided_choice))
        for name, pattern in (("guided_regex", self.guided_regex), ("regex", self.regex)):
            if pattern is not None:
                yield name, Grammar("regex", pattern)
        for name, source in (("guided_grammar", self.guided_grammar), ("grammar", self.grammar_), ("ebnf", self.ebnf)):
            if source:
                yield name, Grammar("lark", source)
