"""Writes a request's grammar in the form that llguidance reads.

That form is JSON: a list of grammars, the first of which may refer to the others by name. Reasoning that comes first,
and an answer without calls, are put around a grammar in it.

Invariant: white space in JSON is one space, or one line break with an indentation. Unbounded, some models write nothing
else; what a schema leaves open is narrowed for the same reason.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inference.text.gbnf import convertible, is_gbnf
from inference.text.grammar_limits import check_lark, check_length, check_pattern, check_schema
from inference.text.narrowed_schemas import narrowed
from inference.text.schema_addresses import without_addresses
from inference.text.schema_keywords import in_known_keywords
from interface.requests import Grammar

SpecialTokens = Mapping[str, int]
"""The ids of special tokens by their text. A grammar must refer to them by id."""
OTHERWISE = "otherwise"
"""The name, in a grammar of tools, of the grammar of an answer without calls."""
WHITE_SPACE = r"\x20|\n(\x20\x20){0,7}"
"""The white space that is allowed between two parts of JSON, once."""


@dataclass(frozen=True, slots=True)
class Thought:
    """Reasoning that may precede the text of a grammar. If `is_open`, the prompt has begun it."""

    opening: str
    closing: str
    is_open: bool


def source_of(grammar: Grammar) -> str:
    """Return a request's grammar in the form that llguidance reads.

    Raises:
        ValueError: it is not a grammar of its kind, or over a limit.
    """
    from llguidance import LLMatcher
    from llguidance.gbnf_to_lark import any_to_lark, gbnf_to_lark

    match grammar.kind:
        case "json_schema":
            check_length(grammar.source)
            return LLMatcher.grammar_from_json_schema(json_schema(_json(grammar.source)))
        case "regex":
            check_pattern(grammar.source)
            return LLMatcher.grammar_from_regex(grammar.source)
        case "choice":
            check_length(grammar.source)
            return LLMatcher.grammar_from_regex("|".join(map(_escaped, _choices(grammar.source))))
        case "lark":
            check_lark(grammar.source)
            source = grammar.source
            try:
                lark = gbnf_to_lark(convertible(source)) if is_gbnf(source) else any_to_lark(source)
            except Exception as error:  # it is neither Lark nor llama.cpp's GBNF
                raise ValueError(str(error)) from error
            return json.dumps({"grammars": [{"lark_grammar": lark}]})
        case "tools":
            return json.dumps({"grammars": [{"lark_grammar": grammar.source}]})


def with_otherwise(source: str, otherwise: str) -> str:
    """Add the grammar of an answer without calls to one that refers to it, both in llguidance's form."""
    body, *others = json.loads(otherwise)["grammars"]
    return json.dumps({"grammars": [*json.loads(source)["grammars"], {**body, "name": OTHERWISE}, *others]})


def after_thought(source: str, thought: Thought, special: SpecialTokens) -> str:
    """Put reasoning before a grammar in llguidance's form."""
    closing = literal(thought.closing, special)
    is_token = thought.closing in special
    lark = [
        "start: thought @body" if thought.is_open else f"start: ({literal(thought.opening, special)} thought)? @body",
        "thought: until SPACE?",
        f"until: TEXT {closing}" if is_token else f"until[lazy]: TEXT {closing}",
        r"TEXT: /(.|\n)*/",
        r"SPACE: /[ \n]{1,4}/",
    ]
    body, *others = json.loads(source)["grammars"]
    begin = {"name": "answer", "lark_grammar": "\n".join(lark)}
    return json.dumps({"grammars": [begin, {**body, "name": "body"}, *others]})


def unforced(source: str) -> str:
    """Turn off llguidance's forced tokens in a grammar in its form.

    Where only one text can follow, llguidance lets the tokenizer choose the tokens. If that text looks like a special
    token, the tokenizer would choose that token, and if it changes texts before it cuts them (to lower case, or from e
    with an accent to é), the tokens of another text. The grammar allows neither.
    """
    grammars = json.loads(source)["grammars"]
    for grammar in grammars:
        grammar["lark_grammar"] = as_lark(grammar)
        grammar.pop("json_schema", None)
        if "%llguidance" not in grammar["lark_grammar"]:
            grammar["lark_grammar"] = '%llguidance {"no_forcing": true}\n' + grammar["lark_grammar"]
    return json.dumps({"grammars": grammars})


def as_lark(grammar: Mapping[str, Any]) -> str:
    """Return one of the grammars in llguidance's form as Lark."""
    schema = grammar.get("json_schema")
    return grammar["lark_grammar"] if schema is None else f"start: %json {json.dumps(schema)}"


def literal(text: str, special: SpecialTokens) -> str:
    """A text for a Lark grammar, with its special tokens by their ids."""
    tokens = "|".join(map(re.escape, sorted(special, key=len, reverse=True)))
    pieces = re.split(f"({tokens})", text) if special else [text]
    return " ".join(
        f"<[{special[piece]}]>" if piece in special else json.dumps(piece, ensure_ascii=False)
        for piece in pieces
        if piece
    )


def json_schema(schema: object, *, lenient: bool = False) -> dict[str, Any]:
    """Return a request's schema with our options for llguidance.

    Args:
        schema: what came in the request.
        lenient: ignore keywords that cannot be enforced, where they would be refused.

    Raises:
        ValueError: it is not a schema, or over a limit.
    """
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise ValueError(f"expected a JSON schema as an object, but got {schema!r}")
    check_schema(schema)
    return {
        **narrowed(in_known_keywords(without_addresses(schema), lenient=lenient)),
        "x-guidance": {"whitespace_pattern": WHITE_SPACE, "lenient": lenient},
    }


def _choices(source: str) -> list[str]:
    choices = _json(source)
    if (
        not isinstance(choices, list)
        or not choices
        or not all(isinstance(choice, str) and choice for choice in choices)
    ):
        raise ValueError(f"expected a list of texts, none of them empty, but got {source}")
    return choices


def _escaped(text: str) -> str:
    """Return a regular expression that matches only this text."""
    return re.sub(r"[^\w ]", lambda character: f"\\x{{{ord(character[0]):x}}}", text)


def _json(source: str) -> Any:
    try:
        return json.loads(source)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not valid JSON: {error}") from error
