"""Builds a message out of events. Each change yields the events of a stream; the message built is the whole answer.

One block at a time is open; a part of another kind closes it and opens the next.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from contract import opaque
from contract.anthropic import answer as wire
from contract.summaries import summary_in
from contract.tools import are_whole, arguments_in
from interface.events import ArgumentsPart, Finished, TextPart, Token, ToolCallPart

Events = Iterator[wire.StreamEvent]


@dataclass(slots=True)
class _OpenBlock:
    """A block that may still grow. `blank` is what it is before its first piece."""

    blank: wire.Block
    pieces: list[str] = field(default_factory=list)

    def delta(self, piece: str) -> wire.Delta | None:
        """What a stream says of a piece; None for nothing."""
        match self.blank:
            case wire.TextBlock():
                return wire.TextDelta("text_delta", piece)
            case wire.ThinkingBlock():
                return wire.ThinkingDelta("thinking_delta", piece)
            case wire.CompactionBlock():
                return wire.CompactionDelta("compaction_delta", piece or None)
        return wire.InputJsonDelta("input_json_delta", piece)

    def block(self) -> wire.Block:
        text = "".join(self.pieces)
        match self.blank:
            case wire.TextBlock():
                return replace(self.blank, text=text)
            case wire.ThinkingBlock():
                return replace(self.blank, thinking=text)
            case wire.CompactionBlock():
                return replace(self.blank, content=text or None)
        # A call that was cut off has what was there; clients read their stream in the same way.
        return replace(self.blank, input=arguments_in(text, partial=True))


@dataclass(slots=True)
class _OmittedThinking(_OpenBlock):
    """Reasoning that the client does not want to see. It comes back with later requests, as the block's signature."""

    def delta(self, piece: str) -> None:
        """A stream says nothing of it before the signature."""

    def block(self) -> wire.Block:
        return wire.ThinkingBlock("thinking", "", opaque.REASONING + "".join(self.pieces))


class MessageBuilder:
    """The message so far: `message` is whole once `finish` has been iterated.

    Args:
        max_tokens: what the request asks for. An answer that is cut before has filled the context.
        context_management: what the end of the message says about it, if the request asks.
        shows_thinking: whether thinking blocks have their text.
    """

    def __init__(
        self,
        model: str,
        prompt_tokens: int,
        max_tokens: int,
        context_management: wire.ContextManagement | None = None,
        *,
        shows_thinking: bool = True,
    ) -> None:
        usage = wire.Usage(prompt_tokens, 0, 0, 0, wire.ThinkingTokens(0))
        message_id = f"msg_{uuid.uuid4().hex}"
        self.message = wire.AssistantMessage(message_id, "message", "assistant", model, [], None, None, usage)
        self._max_tokens = max_tokens
        self._context_management = context_management
        self._shows_thinking = shows_thinking
        self._blocks: list[wire.Block] = []
        self._open: _OpenBlock | None = None

    def start(self) -> wire.MessageStart:
        return wire.MessageStart("message_start", self.message)

    def grow(self, text: str) -> bool:
        """Append to the open block and return True, if it is a text block; `text_delta` is then the event to send."""
        if self._open is None or not isinstance(self._open.blank, wire.TextBlock):
            return False
        self._open.pieces.append(text)
        return True

    def text_delta(self, text: str) -> wire.ContentBlockDelta:
        return self._delta(wire.TextDelta("text_delta", text))

    def token(self, token: Token) -> Events:
        """Take a token's parts."""
        for part in token.as_parts():
            match part:
                case TextPart(text=""):
                    pass
                case TextPart(kind="content"):
                    yield from self._text(wire.TextBlock("text", ""), part.text)
                case TextPart():
                    yield from self._text(wire.ThinkingBlock("thinking", "", ""), part.text)
                case ToolCallPart():
                    yield from self._call(part)
                case ArgumentsPart():
                    yield from self._grow(part.text)

    def finish(self, finished: Finished) -> Events:
        """Take the end of the sequence."""
        stop_sequence = finished.stop_reason if isinstance(finished.stop_reason, str) else None
        delta = wire.StopDelta(self._stop_reason(finished, stop_sequence), stop_sequence)
        yield from self._close()
        uncached = finished.prompt_tokens - finished.cached_tokens
        details = wire.ThinkingTokens(finished.reasoning_tokens)
        usage = wire.Usage(uncached, finished.cached_tokens, 0, finished.completion_tokens, details)
        self.message = replace(
            self.message,
            content=list(self._blocks),
            stop_reason=delta.stop_reason,
            stop_sequence=stop_sequence,
            usage=usage,
            context_management=self._context_management,
        )
        yield wire.MessageDelta("message_delta", delta, usage, self._context_management)
        yield wire.MessageStop("message_stop")

    def _text(self, blank: wire.Block, text: str) -> Events:
        """Append to the open block if it is of the same kind, else begin a new one."""
        if self._open is None or type(self._open.blank) is not type(blank):
            yield from self._begin(blank)
        yield from self._grow(text)

    def _call(self, call: ToolCallPart) -> Events:
        yield from self._begin(wire.ToolUseBlock("tool_use", f"toolu_{uuid.uuid4().hex}", call.name, {}))
        yield from self._grow(call.arguments)
        if call.is_whole:
            yield from self._close()

    def _begin(self, blank: wire.Block) -> Events:
        yield from self._close()
        is_omitted = isinstance(blank, wire.ThinkingBlock) and not self._shows_thinking
        self._open = _OmittedThinking(blank) if is_omitted else _OpenBlock(blank)
        yield wire.ContentBlockStart("content_block_start", self._index, blank)

    def _grow(self, piece: str) -> Events:
        assert self._open is not None
        self._open.pieces.append(piece)
        if (delta := self._open.delta(piece)) is not None:
            yield self._delta(delta)

    def _close(self) -> Events:
        if self._open is not None:
            block = self._open.block()
            if isinstance(block, wire.ThinkingBlock):
                yield self._delta(wire.SignatureDelta("signature_delta", block.signature))
            yield wire.ContentBlockStop("content_block_stop", self._index)
            self._blocks.append(block)
            self._open = None

    def _delta(self, delta: wire.Delta) -> wire.ContentBlockDelta:
        return wire.ContentBlockDelta("content_block_delta", self._index, delta)

    @property
    def _index(self) -> int:
        """The index of the open block, or of the next one."""
        return len(self._blocks)

    def _has_called(self) -> bool:
        """Whether there are calls, and the last one is whole."""
        if self._open is not None and isinstance(self._open.blank, wire.ToolUseBlock):
            return are_whole(self._open.pieces)
        return any(isinstance(block, wire.ToolUseBlock) for block in self._blocks)

    def _stop_reason(self, finished: Finished, stop_sequence: str | None) -> wire.StopReason:
        if finished.finish_reason == "length":
            return "max_tokens" if finished.completion_tokens >= self._max_tokens else "model_context_window_exceeded"
        if self._has_called():
            return "tool_use"
        return "end_turn" if stop_sequence is None else "stop_sequence"


class SummaryBuilder(MessageBuilder):
    """A message that holds the summary of a conversation, and nothing else."""

    def __init__(self, model: str, prompt_tokens: int, max_tokens: int) -> None:
        super().__init__(model, prompt_tokens, max_tokens)
        self._tokens: list[Token] = []

    def token(self, token: Token) -> Events:
        """Keep a token: the summary is sent when it is whole."""
        self._tokens.append(token)
        return iter(())

    def finish(self, finished: Finished) -> Events:
        yield from self._begin(wire.CompactionBlock("compaction", None))
        yield from self._grow(summary_in(self._tokens))
        yield from super().finish(finished)

    def _stop_reason(self, finished: Finished, stop_sequence: str | None) -> wire.StopReason:
        return "compaction"
