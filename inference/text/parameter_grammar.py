"""Grammars of calls whose parameters are written one by one, and of which only structures are JSON.

    parameters_0: parameter_0_0 parameter_0_1?
    parameter_0_0: "<parameter=city>\\n" value_0_0

A text is one lexeme together with what ends it, so that the text cannot have its own end in it.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inference.text.grammar_source import SpecialTokens, literal
from inference.text.narrowed_schemas import Schema
from inference.text.parameter_types import Work, alternatives
from inference.text.tool_forms import ParameterForm

NAME = re.compile(r'[^<>"\s]{1,100}')
"""A parameter's name that no tag takes for its own end."""
UNDERSTOOD = frozenset(
    {"type", "properties", "required", "additionalProperties", "$defs", "definitions", "$schema", "x-guidance"}
    | {"title", "description", "examples", "default", "$id", "$comment", "strict"}
)
"""Keywords of all parameters together that a grammar follows, or that demand nothing."""
NO_GRAMMAR_OF_TEXT = ("format", "contentEncoding", "contentMediaType")
"""Keywords of a text that can be enforced in JSON only."""
ANY_TEXT = r"(.|\n)*"


@dataclass(frozen=True, slots=True)
class ParameterGrammar:
    """Writes the grammar of one tool's parameters.

    Args:
        form: how the model writes a parameter.
        schema: of all parameters.
        number: of the tool; the rules have it in their names.
        special: the tokens that are not text for the model.
        is_strict: refuse what cannot be enforced, and do not ignore it.
    """

    form: ParameterForm
    schema: Mapping[str, Any]
    number: int
    special: SpecialTokens
    is_strict: bool
    _work: Work = field(default_factory=Work, init=False)

    def rules(self) -> Iterator[str]:
        """The rules, the first of which is named `parameters_` and the tool's number.

        Raises:
            ValueError: the schema cannot be enforced.
        """
        if self.is_strict and (others := sorted(self.schema.keys() - UNDERSTOOD)):
            raise ValueError(f"this model writes parameters one by one, so {others[0]!r} cannot be checked")
        properties = self._properties()
        required = self.schema.get("required", [])
        yield from self._sequence([name in required for name in properties])
        for place, (name, schema) in enumerate(properties.items()):
            yield f"parameter_{self._id(place)}: {self._text(self.form.before_name + name)} value_{self._id(place)}"
            try:
                yield from self._value(schema, place)
            except ValueError as error:
                raise ValueError(f"the parameter {name!r}: {error}") from error

    def _properties(self) -> dict[str, Any]:
        properties = dict(self.schema.get("properties", {}))
        required = self.schema.get("required", [])
        for name in required:
            properties.setdefault(name, {})
        for name in [name for name in properties if not NAME.fullmatch(name)]:
            if self.is_strict or name in required:
                raise ValueError(f"the name {name!r} cannot be written in this model's form of calls")
            del properties[name]
        return properties

    def _sequence(self, are_required: Sequence[bool]) -> Iterator[str]:
        """All parameters in their order, some of which may be missing."""
        separator = self._text(self.form.separator)
        names = [f"parameter_{self._id(place)}" for place in range(len(are_required))]
        if not separator:
            optional = ("" if is_required else "?" for is_required in are_required)
            yield f'parameters_{self.number}: "" ' + " ".join(map("".join, zip(names, optional, strict=True)))
            return
        # After `more`, a parameter has come before, so the next one needs a separator.
        yield f"parameters_{self.number}: first_{self._id(0)}"
        for place, (name, is_required) in enumerate(zip(names, are_required, strict=True)):
            here, then = self._id(place), self._id(place + 1)
            yield f"first_{here}: {name} more_{then}" + ("" if is_required else f" | first_{then}")
            yield f"more_{here}: {separator} {name} more_{then}" + ("" if is_required else f" | more_{then}")
        yield f'first_{self._id(len(names))}: ""'
        yield f'more_{self._id(len(names))}: ""'

    def _value(self, schema: Any, place: int) -> Iterator[str]:
        """The rules of one value, with what comes before and after it."""
        if self.form.quotes_texts:
            yield f"value_{self._id(place)}: {self._json([schema])}"
            return
        kinds = self._alternatives(schema)
        texts = [kind for kind in kinds if kind.get("type", "string") == "string"]
        others = [kind for kind in kinds if kind not in texts]
        plain, rest = self._split_end()
        ways = [self._json(others)] if others else []
        if texts:
            before, _ = self.form.around_text
            ways.append(f"{self._text(before)} TEXT_{self._id(place)} {rest}")
        yield f"value_{self._id(place)}: {' | '.join(ways)}"
        if texts:
            has_structures = any(kind["type"] in ("object", "array") for kind in others)
            text = " | ".join(self._plain_text(kind, has_structures) for kind in texts)
            yield f"TEXT_{self._id(place)}: ({text}) {json.dumps(plain)}"

    def _alternatives(self, schema: Any) -> list[Schema]:
        try:
            return alternatives(schema, self.schema, self._work)
        except ValueError:
            if self.is_strict:
                raise
            return [{}]

    def _json(self, schemas: Sequence[Any]) -> str:
        """A value that is JSON, and matches one of the schemas."""
        together = {key: self.schema[key] for key in ("$defs", "definitions", "x-guidance") if key in self.schema}
        schema: dict[str, Any] = schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}
        source = json.dumps({**together, **schema} if isinstance(schema, dict) else together, ensure_ascii=False)
        return f"{self._text(self.form.before_value)} %json {source} {self._text(self.form.after_value)}"

    def _plain_text(self, schema: Schema, has_structures: bool) -> str:
        """A text as it is, of which nothing looks like its end, nor like a structure where one could be meant."""
        if self.is_strict and (keyword := next((word for word in NO_GRAMMAR_OF_TEXT if word in schema), None)):
            raise ValueError(f"this model writes texts as they are, so their {keyword!r} cannot be checked")
        if "enum" in schema or "const" in schema:
            return " | ".join(json.dumps(value, ensure_ascii=False) for value in self._choices(schema))
        least, most = schema.get("minLength", 0), schema.get("maxLength", "")
        pieces = [rf"/(.|\n){{{least},{most}}}/" if least or most != "" else f"/{ANY_TEXT}/"]
        if "pattern" in schema:
            pieces.append(f"/{_searched(schema['pattern'])}/")
        pieces += [f"~/{ANY_TEXT}{_escaped(text)}{ANY_TEXT}/" for text in self.form.never_in_text]
        if has_structures:
            pieces.append(rf"~/\s*[\[\{{]{ANY_TEXT}/")
        return f"({' & '.join(pieces)})"

    def _choices(self, schema: Schema) -> list[str]:
        choices: list[str] = schema["enum"] if "enum" in schema else [schema["const"]]
        for choice in choices:
            if not isinstance(choice, str) or any(text in choice for text in self.form.never_in_text):
                raise ValueError(f"the value {choice!r} cannot be written in this model's form of calls")
        return choices

    def _split_end(self) -> tuple[str, str]:
        """What ends a text: its beginning, which is text, and the rest from the first special token on."""
        _, end = self.form.around_text
        place = min((end.index(token) for token in self.special if token in end), default=len(end))
        return end[:place], self._text(end[place:])

    def _text(self, text: str) -> str:
        return literal(text, self.special)

    def _id(self, place: int) -> str:
        return f"{self.number}_{place}"


def _searched(pattern: str) -> str:
    """An expression that matches all texts in which a pattern is found."""
    before = "" if pattern.startswith("^") else ANY_TEXT
    is_end = pattern.endswith("$") and not pattern.endswith("\\$")
    inner = pattern.removeprefix("^")
    inner = inner[:-1] if is_end else inner
    inner = re.sub(r"\\.|/", lambda found: r"\/" if found[0] == "/" else found[0], inner.replace("\n", r"\n"))
    return f"{before}({inner}){'' if is_end else ANY_TEXT}"


def _escaped(text: str) -> str:
    return re.escape(text).replace("/", r"\/")
