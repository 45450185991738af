"""How to find the parts of answers in which they are elements, calls and their arguments too: MiniMax M3's, Kimi K3's.

MiniMax M3 puts a mark before each tag, and values may nest (types are those of the tool's schema):

    ]<]minimax[>[<invoke name="weather">]<]minimax[>[<city>Paris]<]minimax[>[</city>]<]minimax[>[</invoke>

Kimi K3 writes tags with tokens of their own, and says of which type a value is:

    <|open|>call tool="weather" index="1"<|sep|>
    <|open|>argument key="city" type="string"<|sep|>Paris<|close|>argument<|sep|><|close|>call<|sep|>

Each function raises if a text is anything else: then it is content, and not a call.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import unescape
from typing import Any

from inference.text.call_notations import Call
from inference.text.message_answers import Spec
from inference.text.parameter_types import ORDER, Work, alternatives, kind_of

MARK = re.escape("]<]minimax[>[")
MINIMAX_M3_CALLS: Spec = {
    "open_pattern": rf'(?:\s{{0,8}}{MARK}<tool_call>)?\s{{0,8}}(?={MARK}<invoke name=")',
    "close_pattern": rf"{MARK}</invoke>",
    "repeats": True,
    "content": "text",
}
MINIMAX_M3_ENDS = rf"{MARK}</tool_call>"
MINIMAX_M3_FIELDS: Spec = {
    "content": {"content": "text"},
    "reasoning_content": {"open": "<mm:think>", "close": "</mm:think>", "content": "text"},
    "thinking": {"open_pattern": "(?=</mm:think>)", "close": "</mm:think>", "content": "text"},  # none at all
}
KIMI_K3_CALLS: Spec = {
    "open_pattern": r"(?:\s{0,8}<\|open\|>tools<\|sep\|>)?\s{0,8}(?=<\|open\|>call )",
    "close_pattern": r"<\|close\|>call<\|sep\|>",
    "repeats": True,
    "content": "text",
}
KIMI_K3_ENDS = r"<\|close\|>tools<\|sep\|>"
KIMI_K3_FIELDS: Spec = {
    "text": {"content": "text"},
    "reasoning_content": {"open": "<|open|>think<|sep|>", "close": "<|close|>think<|sep|>", "content": "text"},
    "thinking": {  # nothing: the end of the message
        "open_pattern": r"<\|close\|>message(?=<\|sep\|>)",
        "close": "<|sep|>",
        "content": "text",
    },
    "content": {"open": "<|open|>response<|sep|>", "close": "<|close|>response<|sep|>", "content": "text"},
}
MOST_DEPTH = 64
"""Elements in elements. A text that nests deeper is not a call."""

_INVOKE = re.compile(rf'{MARK}<invoke name="([^"\n]{{1,100}})">')
_TAG = re.compile(rf"{MARK}<(?P<closes>/?)(?P<name>[^<>\n]{{1,200}})>")
_CALL = re.compile(r"<\|open\|>call (?P<attributes>[^<>]{0,400})<\|sep\|>")
_ARGUMENT = re.compile(
    r"<\|open\|>(?P<tag>argument|json) (?P<attributes>[^<>]{0,400})<\|sep\|>(?P<value>.*?)<\|close\|>(?P=tag)<\|sep\|>",
    re.DOTALL,
)
_ATTRIBUTE = re.compile(r'(\w{1,40})="([^"]*)"')


@dataclass(slots=True)
class _Element:
    name: str
    text: str = ""
    children: "list[_Element]" = field(default_factory=list)


def minimax_m3_calls(text: str, tools: Sequence[Mapping[str, Any]]) -> list[Call]:
    """A call of MiniMax M3, without its end."""
    head = _INVOKE.match(text)
    if head is None:
        raise ValueError("no name")
    schema = next((tool["function"].get("parameters") for tool in tools if tool["function"]["name"] == head[1]), None)
    return [{"name": head[1], "arguments": _Typed(schema or {}).members(_elements(text[head.end() :]), schema or {})}]


def kimi_k3_calls(text: str) -> list[Call]:
    """A call of Kimi K3, without its end."""
    head = _CALL.match(text)
    if head is None:
        raise ValueError("no name")
    arguments: dict[str, Any] = {}
    place = head.end()
    while (found := _ARGUMENT.match(text, place)) is not None:
        place = found.end()
        attributes = _attributes(found["attributes"])
        if found["tag"] == "json":
            arguments |= json.loads(found["value"])
        else:
            is_text = attributes.get("type", "string") == "string"
            arguments[attributes["key"]] = found["value"] if is_text else json.loads(found["value"])
    if text[place:].strip():
        raise ValueError("there is more than arguments")
    return [{"name": _attributes(head["attributes"])["tool"], "arguments": arguments}]


def _attributes(text: str) -> dict[str, str]:
    return {name: unescape(value) for name, value in _ATTRIBUTE.findall(text)}


def _elements(text: str) -> list[_Element]:
    """The elements in a text. Raises if their tags do not match."""
    root = _Element("")
    open_ones, place = [root], 0
    for tag in _TAG.finditer(text):
        open_ones[-1].text += text[place : tag.start()]
        place = tag.end()
        if not tag["closes"]:
            open_ones[-1].children.append(_Element(tag["name"]))
            open_ones.append(open_ones[-1].children[-1])
        elif open_ones.pop().name != tag["name"]:
            raise ValueError(f"no {tag['name']} is open")
        if not 0 < len(open_ones) < MOST_DEPTH:
            raise ValueError("closed too often, or too deep")
    if len(open_ones) > 1 or (root.text + text[place:]).strip():
        raise ValueError("not closed, or there is more than elements")
    return root.children


class _Typed:
    """Makes values of elements, of the types that the schema of the parameters says."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._work = Work()

    def members(self, elements: Sequence[_Element], schema: Mapping[str, Any]) -> dict[str, Any]:
        """An object. Raises if a schema is not understood."""
        properties = schema.get("properties") or {}
        return {element.name: self._value(element, properties.get(element.name)) for element in elements}

    def _value(self, element: _Element, schema: Any) -> Any:
        by_type = {alternative.get("type"): alternative for alternative in alternatives(schema, self._root, self._work)}
        if not element.children:
            return _value_of(element.text, by_type)
        if element.text.strip():
            raise ValueError("a text next to elements")
        are_items = all(child.name == "item" for child in element.children)
        if "array" in by_type or (are_items and "object" not in by_type):
            items = by_type.get("array", {}).get("items")
            return [self._value(child, items) for child in element.children]
        return self.members(element.children, by_type.get("object", {}))


def _value_of(text: str, types: Mapping[Any, Any]) -> Any:
    """A text as a value of one of these types; itself if it has none of them, or all are allowed."""
    if None in types:
        return text
    if not text.strip() and "string" not in types:
        return next((empty for name, empty in (("array", []), ("object", {})) if name in types), text)
    for name in ORDER:
        if name in types and (found := _read_as(name, text)) is not None:
            return found[0]
    return text


def _read_as(name: str, text: str) -> tuple[Any] | None:
    """The value that a text is of this type; in a tuple, for it may be null."""
    if name == "string":
        return (text,)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if name == "integer" and isinstance(value, float) and value.is_integer():
        return (int(value),)
    kind = kind_of(value)
    return (value,) if kind == name or (name, kind) == ("number", "integer") else None
