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
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_parsing import ResponseParser
from transformers.utils.chat_parsing.response_templates import (
    ResponseTemplate,
    ResponseTemplateField,
    load_response_template,
)

from inference.text.call_reader import CallReader
from inference.text.call_region import LONGEST_CALLS, CallRegion, Ended
from inference.text.call_values import CallValues
from inference.text.families import (
    CALLS_FIELD,
    END_FIELD,
    FORMS,
    HERMES_FAMILY,
    Family,
    family_of,
    response_template,
    thinking,
)
from inference.text.message_answers import Spec
from inference.text.tool_forms import HARMONY_REASONING, ToolForm
from interface.events import Part, TextKind, TextPart, ToolCallPart

Tools = Sequence[Mapping[str, Any]]

REASONING_FIELDS = frozenset({"reasoning_content", "reasoning", "thinking"})
PIECE = 256
"""Characters that are read at once. What follows the beginning or the end of calls in them is read again."""


class ResponseFormat:
    """The format of one model's answers. Any thread may make a parser."""

    def __init__(self, spec: Spec, family: Family | None = None) -> None:
        self._template = load_response_template(spec)
        self._family = family
        form = None if family is None else family.form
        written = "" if form is None else form.write("f", {"a": "b"})
        self._markers = json.dumps(spec, ensure_ascii=False).replace("\\", "") + written
        self.form = form or next(filter(self._reads, FORMS), None)
        """The form of calls that a grammar can enforce; None if the model's form is not one of those known."""
        self.is_harmony = self.form is not None and self.form.is_harmony
        self.reasoning = HARMONY_REASONING if self.is_harmony else self._reasoning()
        """The texts that open and close reasoning, if the model's answers have any."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "ResponseFormat | None":
        """The format of a model's answers: its tokenizer's own, or that of its family; None if they are plain text."""
        spec = getattr(tokenizer, "response_template", None)
        if spec is not None:
            return cls(spec)
        templates = tokenizer.chat_template or ""
        text = templates if isinstance(templates, str) else "\n".join(templates.values())
        family, think = family_of(text), thinking(text)
        return None if family is None and think is None else cls.of_family(family, think)

    @classmethod
    def of_family(cls, family: Family | None, think: Spec | None) -> "ResponseFormat":
        """The format of a family's answers, or of one that only thinks."""
        return cls(response_template(family, think), family)

    @classmethod
    def hermes(cls) -> "ResponseFormat":
        """The format of forced tool calls, for a model that has none of its own."""
        return cls.of_family(HERMES_FAMILY, think=None)

    def keeps(self, token: str) -> bool:
        """Whether a special token's text is needed to find the parts."""
        return token in self._markers

    def begun(self, prompt_text: str) -> str:
        """Return the beginning of the answer that the chat template has put into the prompt: usually nothing.

        Where it is not known how the template begins an answer, that is the opening of reasoning, if the prompt ends
        with it.
        """
        if self._template.start_anchor_re.search(prompt_text) is not None:
            return self._template.truncate_past_last_anchor(prompt_text)
        if self.reasoning is None:
            return ""
        _, opening, rest = prompt_text.rpartition(self.reasoning[0])
        return "" if rest.strip() else opening + rest

    def is_plain(self, has_tools: bool) -> bool:
        """Whether answers have only content, so that they need no parser."""
        return self.reasoning is None and not has_tools

    def parser(
        self,
        begun: str,
        tools: Tools | None,
        parallel: bool = True,
        guaranteed: ToolForm | None = None,
        has_content: bool = True,
    ) -> "Parser":
        """A parser of one answer.

        Args:
            begun: the part of the answer that is in the prompt; see `begun`.
            tools: without any, what looks like a tool call is content.
            parallel: whether the answer may hold several calls; those after the first are left out if not.
            guaranteed: the form that all calls have, if a grammar guarantees it.
            has_content: False if it also guarantees that there is nothing but calls, and reasoning before them.
        """
        unread = () if tools else (CALLS_FIELD, END_FIELD)
        fields = {name: field for name, field in self._template.fields.items() if name not in unread}
        template = dataclasses.replace(self._template, fields=fields, defaults={})
        reader = CallReader(guaranteed) if guaranteed is not None and guaranteed.parameters is None else None
        return Parser(template, begun, tools, parallel, self._family, reader, has_content)

    def _reads(self, form: ToolForm) -> bool:
        """Whether a call in this form is understood."""
        if CALLS_FIELD not in self._template.fields:
            return False
        parser = self.parser(
            "", [{"function": {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}}}]
        )
        parts = [*parser.feed(form.write("f", {"a": 1})), *parser.finish()]
        return parts == [ToolCallPart("f", '{"a": 1}')]

    def _reasoning(self) -> tuple[str, str] | None:
        for name, field in self._template.fields.items():
            if name in REASONING_FIELDS:
                return (field.open_literals or ["<think>"])[0], (field.close_literals or ["</think>"])[0]
        return None


class Parser:
    """The parser of one answer."""

    def __init__(
        self,
        template: ResponseTemplate,
        begun: str,
        tools: Tools | None,
        parallel: bool,
        family: Family | None,
        reader: CallReader | None,
        has_content: bool,
    ) -> None:
        self._template = template
        self._has_content = has_content
        self._family = family
        self._values = CallValues(template, family, list(tools or ()))
        self._calls_left = len(tools or ()) and (1 if not parallel else 1_000_000)
        self._reader: CallReader | None = None
        self._template_as_text = _as_text(template)
        self._stream = ResponseParser(self._template_as_text, prefix="")
        self._unread = ""  # text that was fed and has not come back in an event
        self._skipped = 0  # how much of that, or of a region of calls, is of the prompt
        self._field: str | None = None
        self._region: CallRegion | None = None
        self._searches_left = LONGEST_CALLS  # characters that may be searched twice for the ends of calls
        self._space: list[str] = []  # white space that is shown only if text follows
        self._is_after_part = False
        self._is_after_call = False
        self._last_kind: TextKind | None = None
        self._between = ""  # what separates the region's text from the text before it
        self._fed(begun)
        self._space = []
        self._skipped = len(self._unread if self._region is None else self._region.text)
        self._reader = reader  # a call that the prompt has begun is none of the answer's own

    @property
    def is_reasoning(self) -> bool:
        """Whether the answer is in its reasoning now."""
        return self._field in REASONING_FIELDS

    def feed(self, text: str) -> tuple[Part, ...]:
        """Add the next piece of the answer; return the parts that are certain now."""
        return self._to_send(self._fed(text))

    def finish(self) -> tuple[Part, ...]:
        """Return what was held back, when no more text will come."""
        parts = self._fed(self._reader.finish()) if self._reader is not None else []
        while True:
            if self._region is not None:
                new, rest = self._end_calls(self._region.finish())
            else:
                new, rest = self._parts_of(self._stream.finalize()[1])
            parts += new + self._fed(rest)
            if self._region is None and not rest:
                break
        if self._field not in REASONING_FIELDS:
            parts += self._content("".join(self._space))
        return self._to_send(parts)

    def _to_send(self, parts: Iterable[Part]) -> tuple[Part, ...]:
        """Return the parts to send. If the answer has only calls, text that looks like content begins one of them."""
        return tuple(_merged(part for part in parts if self._has_content or not _is_content(part)))

    def _fed(self, text: str) -> list[Part]:
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
        if self._region is not None:
            return self._read_calls(self._region, text)
        self._unread += text
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
                    parts += self._text(field.name, self._read(event["text"]))
                case "region_close":
                    self._close(field)
        return parts, ""

    def _open_calls(self, field: ResponseTemplateField) -> str:
        """Begin a region of calls; return what follows its opening, which is not for the template to read.

        The text after the region is parsed from the start: calls may contain what looks like the end of a region.
        """
        opening = "" if (found := field.open_re.match(self._unread)) is None else found[0]
        quotes = self._values.quotes(field) if self._searches_left > 0 else ()
        self._region = CallRegion(field, opening, quotes, lambda body: self._values.read(field, opening, body))
        rest = self._unread[len(opening) :]
        self._stream = ResponseParser(self._template_as_text, prefix="")
        self._field, self._unread = CALLS_FIELD, ""
        return rest

    def _read_calls(self, region: CallRegion, text: str) -> tuple[list[Part], str]:
        ended = region.feed(text)
        if self._reader is not None and (rest := self._reader.begin(region.text)) is not None:
            self._region, self._field, self._skipped = None, None, 0
            self._begin_part()
            return [], rest
        return ([], "") if ended is None else self._end_calls(ended)

    def _end_calls(self, ended: Ended) -> tuple[list[Part], str]:
        """Leave a region of calls; return its parts, and what follows it."""
        shown = ended.text[self._skipped :]
        self._region, self._field, self._skipped = None, None, 0
        self._searches_left -= ended.read_twice
        if ended.calls:
            self._begin_part()
            self._last_kind, self._is_after_call = None, True
            calls = ended.calls[: self._calls_left]
            self._calls_left -= len(calls)
            return list(calls), ended.rest
        if self._reader is not None:
            return [], ended.rest  # only the end of the answer can break what a grammar guarantees
        return self._content("".join([*self._space, shown])), ended.rest

    def _open(self, field: ResponseTemplateField) -> list[Part]:
        self._field = field.name
        opening = self._read_delimiter(field.open_re)
        if field.name == END_FIELD:
            return [] if self._is_after_call else self._content("".join([*self._space, opening]))
        if field.name in REASONING_FIELDS:
            self._begin_part()
        if field.open_re is not None and self._last_kind == _kind(field.name):
            self._begin_part()
            self._between = "\n\n"
        return []

    def _text(self, name: str, text: str) -> list[Part]:
        if not text.strip():
            if not self._is_after_part:
                self._space.append(text)
            return []
        shown = "".join([*self._space, text]).rstrip()
        self._space = [text[len(text.rstrip()) :]]
        if self._is_after_part:
            shown = shown.lstrip()
        self._is_after_part = False
        shown, self._between, self._last_kind = self._between + shown, "", _kind(name)
        self._is_after_call = False
        return [TextPart(self._last_kind, shown)]

    def _close(self, field: ResponseTemplateField) -> None:
        self._read_delimiter(field.close_re)
        self._field = None
        if field.name in REASONING_FIELDS:
            self._begin_part()

    def _begin_part(self) -> None:
        """Forget the white space before and after a part that is not content."""
        self._space, self._is_after_part = [], True

    def _content(self, text: str) -> list[Part]:
        self._space, self._is_after_part, self._is_after_call = [], False, False
        return [TextPart("content", text)] if text else []

    def _read(self, text: str) -> str:
        """Remove an event's text from the text that was fed; return it without the part that is in the prompt."""
        place = self._unread.find(text)
        self._unread = self._unread[place + len(text) :]
        hidden = text[: max(0, self._skipped - place)]
        self._skipped = max(0, self._skipped - place - len(text))
        if hidden.strip():
            self._space, self._is_after_part = [], False  # what follows goes on with the prompt's text
        return text[len(hidden) :]

    def _read_delimiter(self, pattern: Any) -> str:
        """Remove a delimiter, whose text events do not contain, from the text that was fed."""
        found = None if pattern is None else pattern.match(self._unread)
        return self._read(found[0]) if found else ""


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
