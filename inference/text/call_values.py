"""Reads whole calls of a model's tools: from the text between their marks to names and arguments."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers.utils.chat_parsing import parse_response
from transformers.utils.chat_parsing.response_templates import ResponseTemplate, ResponseTemplateField

from inference.text.call_notations import python_value
from inference.text.call_region import JSON_QUOTES, Quotes
from inference.text.families import Family
from inference.text.parameter_types import with_plain_types
from inference.text.tool_forms import ParameterForm
from interface.events import ToolCallPart

KINDS_OF_STRUCTURES: Mapping[type, str] = {list: "array", dict: "object"}


class CallValues:
    """Reads the calls in regions of one answer.

    Args:
        template: how calls are found.
        tools: the tools that were offered, as they came.
    """

    def __init__(self, template: ResponseTemplate, family: Family | None, tools: list[Any]) -> None:
        self._template = template
        self._family = family
        self._tools = tools
        self._with_plain_types: list[Any] = with_plain_types(tools)
        self._known = {tool["function"]["name"] for tool in tools} if family and family.has_bare_calls else None

    def quotes(self, field: ResponseTemplateField) -> Sequence[Quotes]:
        """What stands around texts in the arguments of calls."""
        if field.content == "json":
            return JSON_QUOTES
        if self._family is None:
            return ()
        tags = _tags(self._family)
        return self._family.quotes if tags is None else (_around_value(tags),)

    def read(self, field: ResponseTemplateField, opening: str, body: str) -> list[ToolCallPart]:
        """The calls between an opening and its end. Raises if there are none."""
        calls = [_tool_call(value) for value in self._values(field, opening, body)]
        if not calls or (self._known is not None and any(call.name not in self._known for call in calls)):
            raise ValueError("no call of a tool that was offered")
        return calls

    def _values(self, field: ResponseTemplateField, opening: str, body: str) -> list[Any]:
        """The calls as JSON values. Raises if they are not JSON."""
        if self._family is not None and self._family.read is not None:
            return self._family.read(body)
        if self._family is not None and self._family.read_typed is not None:
            return self._family.read_typed(body, self._tools)
        endless = dataclasses.replace(field, close_re=None, close_literals=None)
        alone = dataclasses.replace(self._template, fields={field.name: endless}, implicit=None)
        text = opening + _whole_parameters(body, self._family)
        found = parse_response(text, alone, prefix="", tools=self._with_plain_types)[field.name]
        calls = found if isinstance(found, list) else [found]
        if self._family is not None and _tags(self._family) is not None:
            for call in calls:
                self._read_structures(call["function"])
        return calls

    def _read_structures(self, function: dict[str, Any]) -> None:
        """Read lists and objects that are written as Python writes them, as the templates of some models do."""
        functions = (tool["function"] for tool in self._with_plain_types)
        schema: Any = next((offered for offered in functions if offered["name"] == function["name"]), {})
        properties = (schema.get("parameters") or {}).get("properties") or {}
        arguments = function["arguments"]
        for name, value in arguments.items():
            types = (properties.get(name) or {}).get("type") or ()
            if isinstance(value, str) and "string" not in types and {"array", "object"} & set(types):
                arguments[name] = _structure(value, types)


def _tags(family: Family) -> ParameterForm | None:
    """How a family writes a parameter between tags, if it does."""
    form = family.form.parameters if family.form else None
    return None if form is None or form.quotes_texts or family.read is not None else form


def _structure(text: str, types: Sequence[str]) -> Any:
    """A text as a list or an object of Python, if it is one that may stand there; else itself."""
    try:
        value = python_value(text)
    except (ValueError, KeyError, RecursionError):
        return text
    return value if KINDS_OF_STRUCTURES.get(type(value)) in types else text


def _around_value(tags: ParameterForm) -> Quotes:
    """The tags of a parameter. In one that has no end, the next one would begin."""
    return Quotes(tags.before_name, tags.never_in_text[0], never_inside=re.escape(tags.before_name))


def _whole_parameters(body: str, family: Family | None) -> str:
    """A call's text up to the end of its last parameter. Raises if another one begins and has no end.

    Looking for the ends of many that have none would take quadratic time.
    """
    tags = None if family is None else _tags(family)
    if tags is None:
        return body
    ending = tags.never_in_text[0]
    whole, ending, rest = body.rpartition(ending)
    if tags.before_name in rest:
        raise ValueError("a parameter without an end")
    return whole + ending


def _tool_call(value: Any) -> ToolCallPart:
    """Read a call in any of the usual shapes. Raises if it is not one."""
    function = value.get("function", value)
    name = function["tool_name"] if "tool_name" in function else function["name"]
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if arguments is None:
        arguments = {}
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise ValueError(f"Expected a name and an object of arguments, got {value!r}")
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    text.encode()  # raises for half a surrogate pair, which no answer can carry
    return ToolCallPart(name, text)
