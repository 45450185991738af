"""Reads tool calls whose form a grammar guarantees, so that they can be told while they are made.

Any other call is told when it is whole: until then it may turn out to be none, and is text.
"""

import re

from inference.text.tool_forms import ToolForm
from interface.events import ArgumentsPart, Part, ToolCallPart

NAME = r"[\w.-]+"


class CallReader:
    """Reads the calls of one answer, one after the other: `begin` one with its head, and `feed` it the rest."""

    def __init__(self, form: ToolForm) -> None:
        name = f'"({NAME})"' if form.quotes_name else f"({NAME})"
        self._head = re.compile(re.escape(form.before_name) + name + re.escape(form.before_arguments))
        self._after_arguments = form.after_arguments
        self._borders = (form.separator, form.end)
        self._border = ""  # how much there is of what stands between calls
        self._may_be_border = False
        self._name: str | None = None  # of a call that has not been told yet
        self._in_arguments = False
        self._left = ""  # what is still to come after the arguments
        self._scanner = _ObjectScanner()

    @property
    def is_inside(self) -> bool:
        """Whether a call has begun and is not over, so that the text belongs to it whatever it looks like."""
        return self._in_arguments or bool(self._left)

    def begin(self, text: str) -> str | None:
        """Begin a call if its head is in the text; return what follows the head then."""
        head = self._head.search(text)
        if head is None:
            return None
        self._name, self._in_arguments, self._left = head[1], True, self._after_arguments
        self._scanner = _ObjectScanner()
        return text[head.end() :]

    def feed(self, text: str) -> tuple[list[Part], str]:
        """Take the next piece of the call; return what it adds to the answer, and what follows the call."""
        parts: list[Part] = []
        if self._in_arguments:
            end = self._scanner.end_in(text)
            arguments, text = text[:end], text[end:]
            self._in_arguments = not self._scanner.is_over
            if arguments:
                parts.append(self._part(arguments))
        if self._in_arguments:
            return parts, ""
        skipped = min(len(text), len(self._left))
        self._left = self._left[skipped:]
        self._border, self._may_be_border = "", not self._left
        return parts, text[skipped:]

    def without_border(self, text: str) -> str:
        """Take what stands between two calls, or after the last of them, from a text that follows a call."""
        place = 0
        while self._may_be_border and place < len(text):
            self._border += text[place]
            self._may_be_border = any(border.startswith(self._border) for border in self._borders)
            place += self._may_be_border
        return text[place:]

    def _part(self, arguments: str) -> Part:
        name, self._name = self._name, None
        if name is None:
            return ArgumentsPart(arguments)
        return ToolCallPart(name, arguments, is_whole=not self._in_arguments)


class _ObjectScanner:
    """Finds the end of a JSON object in pieces of text."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._is_escaped = False
        self.is_over = False

    def end_in(self, text: str) -> int:
        """How much of the text belongs to the object."""
        for place, character in enumerate(text):
            if self._in_string:
                self._take_of_string(character)
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.is_over = True
                    return place + 1
        return len(text)

    def _take_of_string(self, character: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif character == "\\":
            self._is_escaped = True
        elif character == '"':
            self._in_string = False
