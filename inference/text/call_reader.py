"""Reads tool calls whose form a grammar guarantees, so that they can be sent while they are generated.

Any other call can only be sent once it is complete: until then it may turn out to be text.
"""

import re

from inference.text.tool_forms import NUMBER, NUMBER_PATTERN, ToolForm
from interface.events import ArgumentsPart, Part, ToolCallPart

NAME = r"[\w.-]+"


class CallReader:
    """Reads calls that follow one another: `begin` with the head of the first, and `feed` it the rest."""

    def __init__(self, form: ToolForm) -> None:
        self._form = form
        name = f'"({NAME})"' if form.quotes_name else f"({NAME})"
        self._head = re.compile(_pattern(form.before_name) + name + _pattern(form.before_arguments))
        self._next_begins = (form.separator + form.before_name).split(NUMBER)[0]
        self._next_head = re.compile(re.escape(form.separator) + self._head.pattern)
        self.is_inside = False
        """Whether calls have begun and not ended, so that all text belongs to them."""
        self._name: str | None = None  # of a call that has not been sent yet
        self._scanner = _ObjectScanner()
        self._left = ""  # what is still to come after the arguments
        self._held = ""  # what may be the head of the next call

    def begin(self, text: str) -> str | None:
        """Begin if the text has the head of a call, and return what follows the head; else return None."""
        head = self._head.search(text)
        return None if head is None else self._begin(head)

    def feed(self, text: str) -> tuple[list[Part], str]:
        """Take the next piece; return what it adds to the answer, and what follows the last call."""
        parts: list[Part] = []
        while self.is_inside and text:
            if not self._scanner.is_over:
                arguments, text = self._scanner.split(text)
                parts.append(self._part(arguments))
            elif self._left:
                skipped = min(len(text), len(self._left))
                self._left, text = self._left[skipped:], text[skipped:]
            else:
                text = self._between(self._held + text)
        return parts, text

    def finish(self) -> str:
        """Return what was held back, once no more text will come; nothing if it is the beginning of a call."""
        held, self._held, self.is_inside = self._held, "", False
        return held if len(held) <= len(self._form.separator) else ""

    def _begin(self, head: re.Match[str]) -> str:
        self.is_inside, self._held = True, ""
        self._name, self._scanner, self._left = head[1], _ObjectScanner(), self._form.after_arguments
        return head.string[head.end() :]

    def _between(self, text: str) -> str:
        """Find the next call, or the end of the last one; return what follows that."""
        self._held = ""
        if (head := self._next_head.match(text)) is not None:
            return self._begin(head)
        end = self._form.end
        if end and text.startswith(end):
            self.is_inside = False
            return text[len(end) :]
        if text.startswith(self._next_begins) or any(mark.startswith(text) for mark in (self._next_begins, end)):
            self._held = text
            return ""
        self.is_inside = False
        return text

    def _part(self, arguments: str) -> Part:
        name, self._name = self._name, None
        if name is None:
            return ArgumentsPart(arguments)
        return ToolCallPart(name, arguments, is_whole=self._scanner.is_over)


def _pattern(text: str) -> str:
    """A pattern of a text in which there may be a number."""
    return NUMBER_PATTERN.join(map(re.escape, text.split(NUMBER)))


class _ObjectScanner:
    """Finds the end of a JSON object in pieces of text."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._is_escaped = False
        self.is_over = False

    def split(self, text: str) -> tuple[str, str]:
        """Split a text into the part that belongs to the object and the rest."""
        end = self._end_in(text)
        return text[:end], text[end:]

    def _end_in(self, text: str) -> int:
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
