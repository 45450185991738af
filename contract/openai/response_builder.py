"""Builds a response out of events: the stream is what it says about each change, the whole answer what it has built.

An answer is a list of items: a message, a piece of reasoning, a function call. One item at a time is open; a part of
another kind closes it and opens the next.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from contract.openai import responses_answer as wire
from contract.openai.logprobs import ChatTokenLogprob, chat_logprob
from interface.events import Failed, Finished, TextPart, Token, ToolCallPart

Events = Iterator[wire.ResponseStreamEvent]


@dataclass(slots=True)
class _OpenItem:
    """A message, or a piece of reasoning, that may still grow."""

    id: str
    output_index: int
    is_message: bool
    pieces: list[str] = field(default_factory=list)
    logprobs: list[ChatTokenLogprob] = field(default_factory=list)

    def announced(self) -> wire.OutputItem:
        """The item before its first piece."""
        if self.is_message:
            return wire.OutputMessage("message", self.id, "in_progress", "assistant", [])
        return wire.OutputReasoning("reasoning", self.id, "in_progress", [], [])

    def item(self, status: wire.ItemStatus) -> wire.OutputItem:
        if self.is_message:
            return wire.OutputMessage("message", self.id, status, "assistant", [self.part()])
        text = wire.ReasoningText("reasoning_text", "".join(self.pieces))
        return wire.OutputReasoning("reasoning", self.id, status, [], [text])

    def part(self) -> wire.OutputText:
        return wire.OutputText("output_text", "".join(self.pieces), [], list(self.logprobs))


class ResponseBuilder:
    """The response so far. `blank` is what it is before the first event."""

    def __init__(self, blank: wire.ResponseObject, shows_logprobs: bool, parallel_tool_calls: bool) -> None:
        self.response = blank
        self._shows_logprobs = shows_logprobs
        self._parallel_tool_calls = parallel_tool_calls
        self._output: list[wire.OutputItem] = []
        self._open: _OpenItem | None = None
        self._held: list[ChatTokenLogprob] = []
        """Of tokens whose text is still to come."""
        self._sequence_number = -1

    def start(self) -> Events:
        yield wire.ResponseEvent("response.created", self._next(), self.response)
        yield wire.ResponseEvent("response.in_progress", self._next(), self.response)

    def token(self, token: Token) -> Events:
        """Take a token's parts."""
        if self._shows_logprobs and token.logprobs is not None:
            self._held.append(chat_logprob(token.logprobs))
        for part in token.as_parts():
            if isinstance(part, ToolCallPart):
                yield from self._call(part)
            elif part.text:
                yield from self._text(part)

    def finish(self, finished: Finished) -> Events:
        """Take the end of the sequence."""
        is_cut = finished.finish_reason == "length"
        status: Literal["completed", "incomplete"] = "incomplete" if is_cut else "completed"
        yield from self._close(status)
        self.response = replace(
            self.response,
            status=status,
            incomplete_details=wire.IncompleteDetails("max_output_tokens") if is_cut else None,
            output=list(self._output),
            usage=_usage(finished),
        )
        type: Literal["response.incomplete", "response.completed"]
        type = "response.incomplete" if is_cut else "response.completed"
        yield wire.ResponseEvent(type, self._next(), self.response)

    def fail(self, failed: Failed) -> Events:
        """Take a failure. Clients are told twice: the first event stops some, the second one others."""
        yield from self._close("incomplete")
        yield wire.ResponseErrorEvent("error", self._next(), "server_error", failed.message, None)
        failure = wire.ResponseFailure("server_error", failed.message)
        self.response = replace(self.response, status="failed", error=failure, output=list(self._output))
        yield wire.ResponseEvent("response.failed", self._next(), self.response)

    def _text(self, part: TextPart) -> Events:
        """Let the open item grow if it is of the same kind, else begin a new one."""
        is_message = part.kind == "content"
        if self._open is None or self._open.is_message != is_message:
            yield from self._close("completed")
            yield from self._begin(is_message)
        opened = self._open
        assert opened is not None
        logprobs, self._held = self._held, []
        opened.pieces.append(part.text)
        if not is_message:
            yield wire.ReasoningTextDelta(
                "response.reasoning_text.delta", self._next(), opened.id, opened.output_index, 0, part.text
            )
            return
        opened.logprobs += logprobs
        yield wire.OutputTextDelta(
            "response.output_text.delta",
            self._next(),
            opened.id,
            opened.output_index,
            0,
            part.text,
            wire.event_logprobs(logprobs),
        )

    def _begin(self, is_message: bool) -> Events:
        item_id = f"{'msg' if is_message else 'rs'}_{uuid.uuid4().hex}"
        opened = self._open = _OpenItem(item_id, len(self._output), is_message)
        yield wire.OutputItemEvent("response.output_item.added", self._next(), opened.output_index, opened.announced())
        if is_message:
            yield wire.ContentPartEvent(
                "response.content_part.added", self._next(), opened.id, opened.output_index, 0, opened.part()
            )

    def _close(self, status: wire.ItemStatus) -> Events:
        opened, self._open = self._open, None
        if opened is None:
            return
        text = "".join(opened.pieces)
        where = (opened.id, opened.output_index, 0)
        if opened.is_message:
            logprobs = wire.event_logprobs(opened.logprobs)
            yield wire.OutputTextDone("response.output_text.done", self._next(), *where, text, logprobs)
            yield wire.ContentPartEvent("response.content_part.done", self._next(), *where, opened.part())
        else:
            yield wire.ReasoningTextDone("response.reasoning_text.done", self._next(), *where, text)
        yield self._done(opened.item(status))

    def _call(self, part: ToolCallPart) -> Events:
        self._held = []
        if not self._parallel_tool_calls and any(isinstance(one, wire.OutputFunctionCall) for one in self._output):
            return
        yield from self._close("completed")
        index = len(self._output)
        item_id, call_id = f"fc_{uuid.uuid4().hex}", f"call_{uuid.uuid4().hex}"
        arguments = part.arguments or "{}"
        item = wire.OutputFunctionCall("function_call", item_id, call_id, part.name, arguments, "completed")
        announced = replace(item, arguments="", status="in_progress")
        yield wire.OutputItemEvent("response.output_item.added", self._next(), index, announced)
        yield wire.ArgumentsDelta("response.function_call_arguments.delta", self._next(), item_id, index, arguments)
        yield wire.ArgumentsDone("response.function_call_arguments.done", self._next(), item_id, index, arguments)
        yield self._done(item)

    def _done(self, item: wire.OutputItem) -> wire.OutputItemEvent:
        self._output.append(item)
        return wire.OutputItemEvent("response.output_item.done", self._next(), len(self._output) - 1, item)

    def _next(self) -> int:
        self._sequence_number += 1
        return self._sequence_number


def _usage(finished: Finished) -> wire.ResponseUsage:
    return wire.ResponseUsage(
        finished.prompt_tokens,
        wire.InputTokensDetails(finished.cached_tokens, 0),
        finished.completion_tokens,
        wire.OutputTokensDetails(finished.reasoning_tokens),
        finished.prompt_tokens + finished.completion_tokens,
    )
