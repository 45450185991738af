"""Finds where the calls in an answer end: at a closing mark that is not in one of their texts.

A model that writes code, or about its own tags, writes such marks in its arguments: a semicolon before a brace, three
backticks, `</tool_call>`. One within a text is passed over. If what follows turns out to be no call, the first one that
was passed over was the end after all.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers.utils.chat_parsing.response_templates import ResponseTemplateField

from interface.events import ToolCallPart

LONGEST_CALLS = 256 * 1024
"""Characters of one region of calls. A longer one stays text: parsing it would delay the step."""


@dataclass(frozen=True, slots=True)
class Quotes:
    """The marks around a text in the arguments of calls."""

    opening: str
    closing: str
    has_escapes: bool = False
    """Whether a backslash takes the meaning from the next character."""
    never_inside: str = "(?!)"
    """A pattern of what no such text can contain."""


JSON_QUOTES = (Quotes('"', '"', has_escapes=True, never_inside=r"[\x00-\x1f]"),)
PYTHON_QUOTES = tuple(Quotes(mark, mark, has_escapes=True) for mark in ('"', "'"))


@dataclass(frozen=True, slots=True)
class Ended:
    """A region of calls that has ended."""

    calls: Sequence[ToolCallPart]
    """Without any, the region's text is content."""
    text: str
    rest: str
    """What follows the region."""
    read_twice: int
    """How many characters of the rest were searched for an end."""


class CallRegion:
    """A region of calls from its opening on: `feed` it text until it has ended.

    Args:
        field: how the region closes.
        opening: the text that opened it.
        quotes: what may stand around texts in it.
        read: reads the calls in a body. Raises if there are none.
    """

    def __init__(
        self,
        field: ResponseTemplateField,
        opening: str,
        quotes: Sequence[Quotes],
        read: Callable[[str], Sequence[ToolCallPart]],
    ) -> None:
        self._opening = opening
        self._body = ""  # all that followed the opening
        self._field = field
        self._texts = _QuotedTexts(quotes)
        self._read = read
        self._searched = 0  # the closing mark is not before this place
        self._passed: int | None = None  # where the first closing mark in a text ends

    @property
    def text(self) -> str:
        """The opening and all that followed it."""
        return self._opening + self._body

    def feed(self, text: str) -> Ended | None:
        """Add the next piece; return the region once it has ended."""
        self._body += text
        return self._find_end(is_last=False)

    def finish(self) -> Ended:
        """Return the region, when no more text will come."""
        return self._find_end(is_last=True) or self._end_at(len(self._body), len(self._body))

    def _find_end(self, is_last: bool) -> Ended | None:
        while (mark := self._next_mark(is_last)) is not None:
            begin, end = mark
            self._texts.scan(self._body, begin)
            if not self._texts.is_inside:
                return self._end_at(begin, end)
            self._passed = end if self._passed is None else self._passed
            self._searched = begin + 1
        if self._passed is None:
            return None
        self._texts.scan(self._body, len(self._body) if is_last else self._searched - self._texts.longest_mark + 1)
        return self._end_at_passed() if self._texts.is_lost else None

    def _next_mark(self, is_last: bool) -> tuple[int, int] | None:
        """Where the next closing mark begins and ends, once no more text can change that."""
        pattern = self._field.close_re
        found = None if pattern is None else pattern.search(self._body, self._searched, partial=not is_last)
        if found is None:
            self._searched = len(self._body)
            return None
        if not is_last and (found.partial or self._can_grow(found.start(), found.end())):
            self._searched = found.start()
            return None
        return found.start(), found.end()

    def _can_grow(self, begin: int, end: int) -> bool:
        """Whether more text may make a mark longer."""
        is_fixed = self._field.close_literals is not None and not self._field.close_literal_can_extend
        return end == len(self._body) and (begin == end or not is_fixed)

    def _end_at(self, begin: int, end: int) -> Ended:
        are_quotes_right = self._passed is None or not self._texts.is_lost
        calls = self._calls_in(self._body[:begin]) if are_quotes_right else ()
        if not calls and self._passed is not None:
            return self._end_at_passed()
        return Ended(calls, self._opening + self._body[:end], self._body[end:], 0)

    def _end_at_passed(self) -> Ended:
        end = self._passed
        assert end is not None
        return Ended((), self._opening + self._body[:end], self._body[end:], max(0, self._texts.scanned - end))

    def _calls_in(self, body: str) -> Sequence[ToolCallPart]:
        if len(body) > LONGEST_CALLS:
            return ()
        try:
            return self._read(body)
        except Exception:  # broken in any of the ways that a model can break it
            return ()


class _QuotedTexts:
    """Tells whether a place is in a quoted text. If the quotes cannot be right, it says that none is."""

    def __init__(self, quotes: Sequence[Quotes]) -> None:
        self._by_opening = {marks.opening: (marks, _inside(marks)) for marks in quotes}
        self._openings = re.compile("|".join(re.escape(marks.opening) for marks in quotes) or "(?!)")
        self.longest_mark = max((len(mark) for marks in quotes for mark in (marks.opening, marks.closing)), default=1)
        self._quotes: Quotes | None = None  # those around the place
        self.scanned = 0
        self.is_lost = False

    @property
    def is_inside(self) -> bool:
        """Whether the place that was scanned to is in a text."""
        return self._quotes is not None and not self.is_lost

    def scan(self, text: str, end: int) -> None:
        """Go on to a place before which marks are whole."""
        while self.scanned < end and not self.is_lost:
            if self._quotes is None:
                self._scan_outside(text, end)
            else:
                self._scan_inside(text, end, self._quotes)
            if self.scanned >= LONGEST_CALLS:
                self.scanned, self.is_lost = LONGEST_CALLS, True

    def _scan_outside(self, text: str, end: int) -> None:
        found = self._openings.search(text, self.scanned)
        if found is None or found.start() >= end:
            self.scanned = end
            return
        self.scanned = found.end()
        self._quotes = self._by_opening[found[0]][0]

    def _scan_inside(self, text: str, end: int, quotes: Quotes) -> None:
        found = self._by_opening[quotes.opening][1].search(text, self.scanned)
        if found is None or found.start() >= end:
            self.scanned = end
        elif found.lastgroup == "closing":
            self.scanned, self._quotes = found.end(), None
        elif found.lastgroup == "escape":
            self.scanned = found.end() + 1
        else:
            self.scanned, self.is_lost = found.start(), True


def _inside(quotes: Quotes) -> re.Pattern[str]:
    """What has a meaning within a text: its end, a backslash, and what cannot be there."""
    escape = r"\\" if quotes.has_escapes else "(?!)"
    return re.compile(f"(?P<closing>{re.escape(quotes.closing)})|(?P<escape>{escape})|(?P<lost>{quotes.never_inside})")
