"""Reads calls that models write in other notations than one JSON object for each.

Python, as LFM2 and Olmo 3 write it:    [weather(city='Paris', days=3), now()]
Gemma's own:                            call:weather{city:<|"|>Paris<|"|>,days:3}
Names as keys, as Apertus writes them:  [{"weather": {"city": "Paris"}}, {"now": {}}]
JSON in lines, as MiniMax M1 does:      {"name": "weather", "arguments": {"city": "Paris"}}
                                        {"name": "now", "arguments": {}}

Each function raises if a text is anything else: then it is content, and not a call.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Call = dict[str, Any]
Read = Callable[[str], list[Call]]
ReadTyped = Callable[[str, Sequence[Mapping[str, Any]]], list[Call]]

NAME = re.compile(r"[\w.-]+")
NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
STRING = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", re.DOTALL)
ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""}
"""What follows a backslash, where that is not the character itself."""
LITERAL_ESCAPES = frozenset("\\'\"/")
CONSTANTS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
SPACE = re.compile(r"\s*")
BETWEEN_CALLS = re.compile(r"[\s,;]*")


def python_calls(text: str) -> list[Call]:
    """Calls of functions, with all arguments by name: in a list, or one after another."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    notation, calls = _Notation(text), []
    while notation.skip(BETWEEN_CALLS):
        name = notation.take(NAME)
        calls.append({"name": name, "arguments": notation.members("(", "=", ")")})
    return calls


def python_value(text: str) -> Any:
    """A value as Python writes it: a list, a dictionary, a text, a number or a constant."""
    notation = _Notation(text)
    value = notation.value()
    if notation.skip(SPACE):
        raise ValueError("there is more than a value")
    return value


def gemma_calls(text: str) -> list[Call]:
    """A call of Gemma 4."""
    return [_gemma_call(text, '<|"|>')]


def function_gemma_calls(text: str) -> list[Call]:
    """A call of FunctionGemma."""
    return [_gemma_call(text, "<escape>")]


def named_objects(text: str) -> list[Call]:
    """Objects whose only keys are the functions' names."""
    calls = [(name, arguments) for call in json.loads(text) for name, arguments in call.items()]
    return [{"name": name, "arguments": arguments} for name, arguments in calls]


def json_lines(text: str) -> list[Call]:
    """Objects, one after another."""
    decoder, calls, place = json.JSONDecoder(), [], 0
    while (place := _after(SPACE, text, place)) < len(text):
        call, place = decoder.raw_decode(text, place)
        calls.append(call)
    return calls


def _gemma_call(text: str, quote: str) -> Call:
    notation = _Notation(text.strip().removeprefix("call:"), quote)
    call = {"name": notation.take(NAME), "arguments": notation.members("{", ":", "}")}
    if notation.skip(SPACE):
        raise ValueError("there is more than a call")
    return call


class _Notation:
    """Values as Python, JSON or Gemma writes them, and objects whose keys need no quotes.

    Args:
        text: what to read, from its beginning on.
        quote: another mark around texts, in which nothing is escaped.
    """

    def __init__(self, text: str, quote: str | None = None) -> None:
        self._text = text
        self._place = 0
        self._quote = quote

    def skip(self, pattern: re.Pattern[str]) -> bool:
        """Skip what a pattern matches; return whether anything follows."""
        self._place = _after(pattern, self._text, self._place)
        return self._place < len(self._text)

    def take(self, pattern: re.Pattern[str]) -> str:
        """Take what a pattern matches. Raises if it does not."""
        found = pattern.match(self._text, self._place)
        if found is None:
            raise ValueError(f"expected {pattern.pattern} at {self._place}")
        self._place = found.end()
        return found[0]

    def members(self, opening: str, between: str, closing: str) -> dict[str, Any]:
        """Names with their values. Raises if that is not what comes."""
        members: dict[str, Any] = {}
        self._expect(opening)
        while not self._comes(closing):
            name = self._quoted() if self._is_quoted() else self.take(NAME)
            self._expect(between)
            members[name] = self.value()
            self._end_of_item(closing)
        return members

    def value(self) -> Any:
        """Take a value. Raises if that is not what comes."""
        self.skip(SPACE)
        if self._is_quoted():
            return self._quoted()
        if self._text.startswith("{", self._place):
            return self.members("{", ":", "}")
        for opening, closing in ("[]", "()"):
            if self._comes(opening):
                return self._items(closing)
        if NUMBER.match(self._text, self._place) is not None:
            return json.loads(self.take(NUMBER))
        return CONSTANTS[self.take(NAME)]

    def _items(self, closing: str) -> list[Any]:
        items: list[Any] = []
        while not self._comes(closing):
            items.append(self.value())
            self._end_of_item(closing)
        return items

    def _end_of_item(self, closing: str) -> None:
        """After an item comes a comma, or the end, which stays."""
        if not self._comes(",") and not self._text.startswith(closing, self._place):
            raise ValueError(f"expected {closing} at {self._place}")
        self.skip(SPACE)

    def _is_quoted(self) -> bool:
        self.skip(SPACE)
        marks = ("'", '"') if self._quote is None else ("'", '"', self._quote)
        return self._text.startswith(marks, self._place)

    def _quoted(self) -> str:
        if self._quote is None or not self._text.startswith(self._quote, self._place):
            return _unescaped(self.take(STRING)[1:-1])
        begin = self._place + len(self._quote)
        end = self._text.index(self._quote, begin)
        self._place = end + len(self._quote)
        return self._text[begin:end]

    def _comes(self, mark: str) -> bool:
        """Whether a mark comes, which is taken then."""
        self.skip(SPACE)
        if not self._text.startswith(mark, self._place):
            return False
        self._place += len(mark)
        return True

    def _expect(self, mark: str) -> None:
        if not self._comes(mark):
            raise ValueError(f"expected {mark} at {self._place}")


def _after(pattern: re.Pattern[str], text: str, place: int) -> int:
    found = pattern.match(text, place)
    return place if found is None else found.end()


def _unescaped(text: str) -> str:
    """A text without backslashes. Of an unknown escape both characters stay, as in Python."""
    plain = ESCAPE.sub(_character, text)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16")  # joins pairs; raises for a half


def _character(escape: re.Match[str]) -> str:
    if code := escape[1] or escape[2]:
        return chr(int(code, 16))
    return escape[3] if escape[3] in LITERAL_ESCAPES else ESCAPED.get(escape[3], escape[0])
