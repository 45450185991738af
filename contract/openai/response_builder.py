"""Builds a response out of events. Each change yields the events of a stream; the response built is the whole answer.

An answer is a list of items: a message, a piece of reasoning, a function call. One item at a time is open; a part of
another kind closes it and opens the next.
"""

import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from contract import opaque
from contract.openai import responses_answer as wire
from contract.openai.client_tools import CLIENT_TOOLS, client_call
from contract.openai.custom_tools import InputReader
from contract.openai.logprobs import ChatTokenLogprob, chat_logprob
from contract.openai.responses_tools import FlatTool
from contract.tools import are_whole
from interface.events import ArgumentsPart, Failed, Finished, TextPart, Token, ToolCallPart

Events = Iterator[wire.ResponseStreamEvent]


class _OpenItem(Protocol):
    """An item that may still grow."""

    id: str
    output_index: int
    pieces: list[str]

    def announced(self) -> wire.OutputItem:
        """The item before its first piece."""

    def item(self, status: wire.ItemStatus) -> wire.OutputItem:
        """The item as it is now."""


@dataclass(slots=True)
class _OpenMessage:
    id: str
    output_index: int = 0
    pieces: list[str] = field(default_factory=list)
    logprobs: list[ChatTokenLogprob] = field(default_factory=list)

    def announced(self) -> wire.OutputItem:
        return wire.OutputMessage("message", self.id, "in_progress", "assistant", [])

    def item(self, status: wire.ItemStatus) -> wire.OutputItem:
        return wire.OutputMessage("message", self.id, status, "assistant", [self.part()])

    def part(self) -> wire.OutputText:
        return wire.OutputText("output_text", "".join(self.pieces), [], list(self.logprobs))


@dataclass(slots=True)
class _OpenReasoning:
    id: str
    repeats_content: bool
    """Whether the content is there again, in the field for what is encrypted."""
    output_index: int = 0
    pieces: list[str] = field(default_factory=list)

    def announced(self) -> wire.OutputItem:
        return wire.OutputReasoning("reasoning", self.id, "in_progress", [], [])

    def item(self, status: wire.ItemStatus) -> wire.OutputItem:
        content = [wire.ReasoningText("reasoning_text", "".join(self.pieces))]
        return wire.OutputReasoning("reasoning", self.id, status, [], content, self.content_again())

    def content_again(self) -> str | None:
        return opaque.REASONING + "".join(self.pieces) if self.repeats_content else None


@dataclass(slots=True)
class _OpenSummary(_OpenReasoning):
    """Reasoning that is shown where its summary would be. Nothing sums it up."""

    def item(self, status: wire.ItemStatus) -> wire.OutputItem:
        return wire.OutputReasoning("reasoning", self.id, status, [self.part()], [], self.content_again())

    def part(self) -> wire.SummaryText:
        return wire.SummaryText("summary_text", "".join(self.pieces))


@dataclass(slots=True)
class _OpenCall:
    id: str
    name: str
    namespace: str | None = None
    output_index: int = 0
    call_id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex}")
    pieces: list[str] = field(default_factory=list)

    def announced(self) -> wire.OutputItem:
        return self._call("", "in_progress")

    def item(self, status: wire.ItemStatus) -> wire.OutputItem:
        return self._call("".join(self.pieces), status)

    def _call(self, arguments: str, status: wire.ItemStatus) -> wire.OutputItem:
        ids = (self.id, self.call_id, self.name)
        return wire.OutputFunctionCall("function_call", *ids, arguments, status, self.namespace)


@dataclass(slots=True)
class _OpenCustomCall(_OpenCall):
    """A call of a custom tool. Its pieces are those of a function's arguments."""

    reader: InputReader = field(default_factory=InputReader)

    def item(self, status: wire.ItemStatus) -> wire.OutputItem:
        return self._call(self.reader.text, status)

    def _call(self, text: str, status: wire.ItemStatus) -> wire.OutputItem:
        ids = (self.id, self.call_id, self.name)
        return wire.OutputCustomCall("custom_tool_call", *ids, text, status, self.namespace)


@dataclass(slots=True)
class _OpenClientCall(_OpenCall):
    """A call of a tool that OpenAI defines. Its type is known when its arguments are whole."""

    def item(self, status: wire.ItemStatus) -> wire.OutputItem:
        try:
            return client_call(self.name, self.id, self.call_id, "".join(self.pieces), status)
        except ValueError:
            return self._call("".join(self.pieces), status)


class ResponseBuilder:
    """The response so far. `blank` is what it is before the first event; `tools` are those that the model may call."""

    def __init__(
        self,
        blank: wire.ResponseObject,
        shows_logprobs: bool,
        parallel_tool_calls: bool,
        tools: Mapping[str, FlatTool],
        repeats_reasoning: bool,
        summarizes_reasoning: bool,
    ) -> None:
        self.response = blank
        self._tools = tools
        self._repeats_reasoning = repeats_reasoning
        self._reasoning_item = _OpenSummary if summarizes_reasoning else _OpenReasoning
        self._shows_logprobs = shows_logprobs
        self._parallel_tool_calls = parallel_tool_calls
        self._output: list[wire.OutputItem] = []
        self._open: _OpenItem | None = None
        self._held: list[ChatTokenLogprob] = []
        """Log probabilities of tokens whose text is still held back."""
        self._has_called = False
        self._skips_call = False
        """Whether the last call is left out, because only one is allowed."""
        self._sequence_number = -1

    def start(self) -> Events:
        yield wire.ResponseEvent("response.created", self._next(), self.response)
        yield wire.ResponseEvent("response.in_progress", self._next(), self.response)

    def grow(self, text: str) -> int | None:
        """Append a text to the open message, and return the number of its event.

        None if no message is open, or if the event would have more than the text.
        """
        if not isinstance(self._open, _OpenMessage) or self._shows_logprobs:
            return None
        self._open.pieces.append(text)
        return self._next()

    def text_delta(self, number: int, text: str, logprobs: list[ChatTokenLogprob]) -> wire.OutputTextDelta:
        """Return the event of a text that is appended to the open message."""
        opened = self._open
        assert opened is not None
        where = (opened.id, opened.output_index, 0)
        return wire.OutputTextDelta("response.output_text.delta", number, *where, text, wire.event_logprobs(logprobs))

    def token(self, token: Token) -> Events:
        """Take a token's parts."""
        if self._shows_logprobs and token.logprobs is not None:
            self._held.append(chat_logprob(token.logprobs))
        for part in token.as_parts():
            match part:
                case TextPart(text=""):
                    pass
                case TextPart():
                    yield from self._text(part)
                case ToolCallPart():
                    yield from self._call(part)
                case ArgumentsPart() if not self._skips_call:
                    yield from self._grow(part.text)

    def finish(self, finished: Finished) -> Events:
        """Take the end of the sequence."""
        is_cut = finished.finish_reason == "length"
        status: Literal["completed", "incomplete"] = "incomplete" if is_cut else "completed"
        is_whole = not isinstance(self._open, _OpenCall) or are_whole(self._open.pieces)
        yield from self._close(status if is_whole else "incomplete")
        self.response = replace(
            self.response,
            completed_at=None if is_cut else int(time.time()),
            status=status,
            incomplete_details=wire.IncompleteDetails("max_output_tokens") if is_cut else None,
            output=list(self._output),
            usage=usage_of(finished),
        )
        type: Literal["response.incomplete", "response.completed"]
        type = "response.incomplete" if is_cut else "response.completed"
        yield wire.ResponseEvent(type, self._next(), self.response)

    def fail(self, failed: Failed) -> Events:
        """Take a failure. It has two events, as some clients stop at the first and others at the second."""
        yield from self._close("incomplete")
        failure = wire.ResponseFailure(
            "invalid_prompt" if failed.kind == "unusable_grammar" else "server_error", failed.message
        )
        yield wire.ResponseErrorEvent("error", self._next(), failure.code, failed.message, None)
        self.response = replace(self.response, status="failed", error=failure, output=list(self._output))
        yield wire.ResponseEvent("response.failed", self._next(), self.response)

    def _text(self, part: TextPart) -> Events:
        """Append to the open item if it is of the same kind, else begin a new one."""
        if part.kind == "content" and not isinstance(self._open, _OpenMessage):
            yield from self._begin(_OpenMessage(f"msg_{uuid.uuid4().hex}"))
        elif part.kind == "reasoning" and not isinstance(self._open, _OpenReasoning):
            yield from self._begin(self._reasoning_item(f"rs_{uuid.uuid4().hex}", self._repeats_reasoning))
        yield from self._grow(part.text)

    def _call(self, part: ToolCallPart) -> Events:
        self._held = []
        self._skips_call = not self._parallel_tool_calls and self._has_called
        if self._skips_call:
            return
        self._has_called = True
        tool = self._tools.get(part.name)
        name, namespace = (part.name, None) if tool is None else (tool.name, tool.namespace_name)
        if tool is not None and tool.is_custom:
            yield from self._begin(_OpenCustomCall(f"ctc_{uuid.uuid4().hex}", name, namespace))
        elif tool is not None and tool.is_of_openai:
            yield from self._begin(_OpenClientCall(f"{CLIENT_TOOLS[name].id_prefix}_{uuid.uuid4().hex}", name))
        else:
            yield from self._begin(_OpenCall(f"fc_{uuid.uuid4().hex}", name, namespace))
        yield from self._grow(part.arguments or "{}" if part.is_whole else part.arguments)
        if part.is_whole:
            yield from self._close("completed")

    def _begin(self, opened: _OpenItem) -> Events:
        yield from self._close("completed")
        opened.output_index = len(self._output)
        self._open = opened
        if isinstance(opened, _OpenClientCall):
            return  # announced once its type is known
        yield wire.OutputItemEvent("response.output_item.added", self._next(), opened.output_index, opened.announced())
        if isinstance(opened, _OpenMessage):
            yield wire.ContentPartEvent(
                "response.content_part.added", self._next(), opened.id, opened.output_index, 0, opened.part()
            )
        elif isinstance(opened, _OpenSummary):
            yield wire.SummaryPartEvent(
                "response.reasoning_summary_part.added", self._next(), opened.id, opened.output_index, 0, opened.part()
            )

    def _grow(self, piece: str) -> Events:
        opened = self._open
        assert opened is not None
        opened.pieces.append(piece)
        where = (opened.id, opened.output_index)
        logprobs, self._held = self._held, []
        match opened:
            case _OpenMessage():
                opened.logprobs += logprobs
                yield self.text_delta(self._next(), piece, logprobs)
            case _OpenSummary():
                yield wire.SummaryTextDelta("response.reasoning_summary_text.delta", self._next(), *where, 0, piece)
            case _OpenReasoning():
                yield wire.ReasoningTextDelta("response.reasoning_text.delta", self._next(), *where, 0, piece)
            case _OpenCustomCall():
                if text := opened.reader.feed(piece):
                    yield wire.InputDelta("response.custom_tool_call_input.delta", self._next(), *where, text)
            case _OpenClientCall():
                pass  # announced once it is whole
            case _OpenCall():
                yield wire.ArgumentsDelta("response.function_call_arguments.delta", self._next(), *where, piece)

    def _close(self, status: wire.ItemStatus) -> Events:
        opened, self._open = self._open, None
        if opened is None:
            return
        text = "".join(opened.pieces)
        where = (opened.id, opened.output_index)
        match opened:
            case _OpenMessage():
                logprobs = wire.event_logprobs(opened.logprobs)
                yield wire.OutputTextDone("response.output_text.done", self._next(), *where, 0, text, logprobs)
                yield wire.ContentPartEvent("response.content_part.done", self._next(), *where, 0, opened.part())
            case _OpenSummary():
                type: Literal["response.reasoning_summary_part.done"] = "response.reasoning_summary_part.done"
                yield wire.SummaryTextDone("response.reasoning_summary_text.done", self._next(), *where, 0, text)
                yield wire.SummaryPartEvent(type, self._next(), *where, 0, opened.part())
            case _OpenReasoning():
                yield wire.ReasoningTextDone("response.reasoning_text.done", self._next(), *where, 0, text)
            case _OpenCustomCall():
                text = opened.reader.text
                yield wire.InputDone("response.custom_tool_call_input.done", self._next(), *where, text)
            case _OpenClientCall():
                yield from self._announce(opened, status)
            case _OpenCall():
                yield wire.ArgumentsDone("response.function_call_arguments.done", self._next(), *where, text)
        yield self._done(opened.item(status))

    def _announce(self, opened: _OpenClientCall, status: wire.ItemStatus) -> Events:
        """Begin an item of which all is known. One that stays a function call has the events of those."""
        item = opened.item(status)
        type: Literal["response.output_item.added"] = "response.output_item.added"
        if not isinstance(item, wire.OutputFunctionCall):
            begun = replace(item, status="in_progress")
            yield wire.OutputItemEvent(type, self._next(), opened.output_index, begun)
            return
        yield wire.OutputItemEvent(type, self._next(), opened.output_index, opened.announced())
        where = (opened.id, opened.output_index, item.arguments)
        yield wire.ArgumentsDelta("response.function_call_arguments.delta", self._next(), *where)
        yield wire.ArgumentsDone("response.function_call_arguments.done", self._next(), *where)

    def _done(self, item: wire.OutputItem) -> wire.OutputItemEvent:
        self._output.append(item)
        return wire.OutputItemEvent("response.output_item.done", self._next(), len(self._output) - 1, item)

    def _next(self) -> int:
        self._sequence_number += 1
        return self._sequence_number


def usage_of(finished: Finished) -> wire.ResponseUsage:
    return wire.ResponseUsage(
        finished.prompt_tokens,
        wire.InputTokensDetails(finished.cached_tokens, 0),
        finished.completion_tokens,
        wire.OutputTokensDetails(finished.reasoning_tokens),
        finished.prompt_tokens + finished.completion_tokens,
    )
