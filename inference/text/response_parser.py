"""Splits an answer into content, reasoning and tool calls while it is generated.

transformers finds the parts: its `ResponseParser` reads a declarative template, the tokenizer's own or that of its
family. Here its events become the parts of an answer.

Invariants:
    1. However a text is cut into pieces, the joined parts are the same.
    2. A tool call whose JSON is broken or cut off becomes content, letter for letter.
    3. White space between the parts belongs to the template, and is left out. A blank line separates two messages of
       one kind.
    4. If a grammar guarantees the form of calls, and their arguments are JSON, each is sent while it is generated, and
       remains a call if it is cut off; one that is cut off before its arguments is left out.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from transformers.utils.chat_parsing import ResponseParser
from transformers.utils.chat_parsing.response_templates import ResponseTemplate, ResponseTemplateField

from inference.text.call_reader import CallReader
from inference.text.call_region import LONGEST_CALLS, CallRegion, Ended
from inference.text.call_values import CallValues
from inference.text.families import CALLS_FIELD, END_FIELD
from inference.text.text_parts import TextParts
from interface.events import Part, TextKind, TextPart, ToolCallPart

REASONING_FIELDS = frozenset({"reasoning_content", "reasoning", "thinking"})
PIECE = 256
"""Characters that are read at once. What follows the beginning or the end of calls in them is read again."""


class Calls:
    """The calls of one answer: the region of the text in which they are, while one is open.

    Args:
        values: reads them.
        limit: how many the answer may have; the others are left out. None: any number.
    """

    def __init__(self, values: CallValues, limit: int | None) -> None:
        self._values = values
        self._left = limit
        self._searches_left = LONGEST_CALLS  # characters that may be searched twice for the ends of regions
        self._region: CallRegion | None = None
        self._hidden = 0  # how many of the region's characters are in the prompt

    @property
    def are_open(self) -> bool:
        return self._region is not None

    @property
    def text(self) -> str:
        """The text of the open region, so far."""
        return self._open_region.text

    def open(self, field: ResponseTemplateField, opening: str, hidden: int) -> None:
        """Begin a region, of which the first `hidden` characters are in the prompt."""
        quotes = self._values.quotes(field) if self._searches_left > 0 else ()
        self._region = CallRegion(field, opening, quotes, lambda body: self._values.read(field, opening, body))
        self._hidden = hidden

    def feed(self, text: str) -> Ended | None:
        """Add the next piece; return the region once it has ended."""
        return self._open_region.feed(text)

    def finish(self) -> Ended:
        """Return the region, when no more text will come."""
        return self._open_region.finish()

    def hide(self) -> None:
        """Note that all of the open region, so far, is in the prompt."""
        self._hidden = len(self.text)

    def close(self) -> None:
        """Leave the open region."""
        self._region, self._hidden = None, 0

    def close_at(self, ended: Ended) -> tuple[list[ToolCallPart], str]:
        """Leave a region that has ended; return those of its calls that the answer may have, and its text."""
        shown = ended.text[self._hidden :]
        self.close()
        self._searches_left -= ended.read_twice
        calls = list(ended.calls[: self._left])
        if self._left is not None:
            self._left -= len(calls)
        return calls, shown

    @property
    def _open_region(self) -> CallRegion:
        assert self._region is not None
        return self._region


class Unread:
    """The text that was fed to the template's parser and has not come back in one of its events."""

    def __init__(self) -> None:
        self.text = ""
        self.hidden = 0
        """How many of its first characters are in the prompt."""

    def take(self, text: str) -> tuple[str, str]:
        """Remove an event's text, and what is before it; return what of it is in the prompt, and what is not."""
        place = self.text.find(text)
        self.text = self.text[place + len(text) :]
        hidden = max(0, self.hidden - place)
        self.hidden = max(0, hidden - len(text))
        return text[:hidden], text[hidden:]


class Parser:
    """The parser of one answer.

    Args:
        template: finds the parts.
        begun: the part of the answer that is in the prompt.
        reader: reads calls whose form is guaranteed.
        has_content: whether the answer may have content. If not, text that looks like it begins a call.
    """

    def __init__(
        self, template: ResponseTemplate, begun: str, calls: Calls, reader: CallReader | None, has_content: bool
    ) -> None:
        self._template = template
        self._template_as_text = _as_text(template)
        self._has_content = has_content
        self._stream = ResponseParser(self._template_as_text, prefix="")
        self._field: str | None = None  # the template's field that the answer is in
        self._unread = Unread()
        self._texts = TextParts()
        self._calls = calls
        self._reader: CallReader | None = None
        self._read_begun(begun)
        self._reader = reader  # a call that the prompt has begun is not one of the answer's own

    @property
    def is_reasoning(self) -> bool:
        """Whether the answer is in its reasoning now."""
        return self._field in REASONING_FIELDS

    def feed(self, text: str) -> tuple[Part, ...]:
        """Add the next piece of the answer; return the parts that are certain now."""
        return self._to_send(self._read(text))

    def finish(self) -> tuple[Part, ...]:
        """Return what was held back, when no more text will come."""
        parts = self._read(self._reader.finish()) if self._reader is not None else []
        while True:
            if self._calls.are_open:
                new, rest = self._end_calls(self._calls.finish())
            else:
                new, rest = self._parts_of(self._stream.finalize()[1])
            parts += new + self._read(rest)
            if not self._calls.are_open and not rest:
                break
        if not self.is_reasoning:
            parts += self._texts.add_content("")
        return self._to_send(parts)

    def _to_send(self, parts: Iterable[Part]) -> tuple[Part, ...]:
        """Return the parts to send. If the answer has only calls, text that looks like content begins one of them."""
        return tuple(_merged(part for part in parts if self._has_content or not _is_content(part)))

    def _read_begun(self, begun: str) -> None:
        """Read the part of the answer that is in the prompt. None of it will be sent."""
        self._read(begun)
        self._texts.drop_space()
        self._unread.hidden = len(self._unread.text)
        if self._calls.are_open:
            self._calls.hide()

    def _read(self, text: str) -> list[Part]:
        parts: list[Part] = []
        pieces = _pieces(text)
        while pieces:
            new, left = self._read_on(pieces.pop())
            parts += new
            pieces += _pieces(left)
        return parts

    def _read_on(self, text: str) -> tuple[list[Part], str]:
        """Read a text up to where calls begin or end, at most; return the parts, and what is left."""
        if self._reader is not None and self._reader.is_inside:
            return self._reader.feed(text)
        if self._calls.are_open:
            return self._read_calls(text)
        self._unread.text += text
        return self._parts_of(self._stream.feed(text))

    def _parts_of(self, events: Iterable[Mapping[str, Any]]) -> tuple[list[Part], str]:
        """The parts that events bring up to the opening of calls, and what follows that."""
        parts: list[Part] = []
        for event in events:
            field = self._template.fields[event["field"]]
            match event["type"]:
                case "region_open" if field.name == CALLS_FIELD:
                    return parts, self._open_calls(field)
                case "region_open":
                    parts += self._open(field)
                case "region_chunk":
                    parts += self._texts.add(_kind(field.name), self._take(event["text"]))
                case "region_close":
                    self._close(field)
        return parts, ""

    def _open_calls(self, field: ResponseTemplateField) -> str:
        """Begin a region of calls; return what follows its opening, which is not for the template to read.

        The text after the region is parsed from the start: calls may contain what looks like the end of a region.
        """
        unread, self._unread = self._unread, Unread()
        opening = "" if (found := field.open_re.match(unread.text)) is None else found[0]
        self._calls.open(field, opening, unread.hidden)
        self._stream = ResponseParser(self._template_as_text, prefix="")
        self._field = CALLS_FIELD
        return unread.text[len(opening) :]

    def _read_calls(self, text: str) -> tuple[list[Part], str]:
        ended = self._calls.feed(text)
        if self._reader is not None and (rest := self._reader.begin(self._calls.text)) is not None:
            self._calls.close()
            self._field = None
            self._texts.add_border()
            return [], rest
        return ([], "") if ended is None else self._end_calls(ended)

    def _end_calls(self, ended: Ended) -> tuple[list[Part], str]:
        """Leave a region of calls; return its parts, and what follows it."""
        calls, shown = self._calls.close_at(ended)
        self._field = None
        if ended.calls:
            self._texts.add_calls()
            return [*calls], ended.rest
        if self._reader is not None:
            return [], ended.rest  # only the end of the answer can break what a grammar guarantees
        return self._texts.add_content(shown), ended.rest

    def _open(self, field: ResponseTemplateField) -> list[Part]:
        self._field = field.name
        opening = self._take_delimiter(field.open_re)
        if field.name == END_FIELD:
            return [] if self._texts.is_after_calls else self._texts.add_content(opening)
        if self.is_reasoning:
            self._texts.add_border()
        if field.open_re is not None:
            self._texts.begin_message(_kind(field.name))
        return []

    def _close(self, field: ResponseTemplateField) -> None:
        self._take_delimiter(field.close_re)
        self._field = None
        if field.name in REASONING_FIELDS:
            self._texts.add_border()

    def _take(self, text: str) -> str:
        """Remove an event's text from the text that was fed; return it without the part that is in the prompt."""
        hidden, shown = self._unread.take(text)
        if hidden.strip():
            self._texts.go_on()
        return shown

    def _take_delimiter(self, pattern: Any) -> str:
        """Remove a delimiter, whose text events do not contain, from the text that was fed."""
        found = None if pattern is None else pattern.match(self._unread.text)
        return self._take(found[0]) if found else ""


def _pieces(text: str) -> list[str]:
    """The pieces of a text that are read at once, the first one last."""
    return [text[place : place + PIECE] for place in reversed(range(0, len(text), PIECE))]


def _as_text(template: ResponseTemplate) -> ResponseTemplate:
    """Return the template with all fields as plain text, so that their content cannot fail to parse."""
    fields = {
        name: dataclasses.replace(
            field,
            content="text",
            content_args={"strip": False},
            transform=None,
            transform_each=False,
            join=None,
            optional=True,
        )
        for name, field in template.fields.items()
    }
    return dataclasses.replace(template, fields=fields)


def _kind(name: str) -> TextKind:
    """The kind of text that a field of the template holds."""
    return "reasoning" if name in REASONING_FIELDS else "content"


def _is_content(part: Part) -> bool:
    return isinstance(part, TextPart) and part.kind == "content"


def _merged(parts: Iterable[Part]) -> list[Part]:
    """The parts with neighbouring texts of one kind joined."""
    merged: list[Part] = []
    for part in parts:
        last = merged[-1] if merged else None
        if isinstance(part, TextPart) and isinstance(last, TextPart) and part.kind == last.kind:
            merged[-1] = TextPart(part.kind, last.text + part.text)
        else:
            merged.append(part)
    return merged
