"""What the Messages API sends back: a message of blocks, whole or as a stream of events.

A `MessageBuilder` takes the engine's events and knows the message so far. The stream is what it says about each
change, and the whole answer is the message in the end, so both say the same.
"""

import json
import uuid
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from contract.anthropic.dialect import ErrorBody
from interface.events import Finished, TextPart, Token, ToolCallPart

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class _Described(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TextBlock(_Described):
    type: Literal["text"] = "text"
    text: str


class ThinkingBlock(_Described):
    """What the model thought before it answered. There is nothing to sign it with."""

    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str = ""


class ToolUseBlock(_Described):
    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: dict[str, Any]


Block = TextBlock | ThinkingBlock | ToolUseBlock


class Usage(_Described):
    input_tokens: int = Field(description="Tokens of the prompt that were not in the prefix cache.")
    cache_read_input_tokens: int = Field(description="Tokens of the prompt that were in the prefix cache.")
    cache_creation_input_tokens: int = 0
    output_tokens: int


class AssistantMessage(_Described):
    """A whole answer."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[Block]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: Usage


class MessageStart(_Described):
    """The first event of a stream: the message, without content yet."""

    type: Literal["message_start"] = "message_start"
    message: AssistantMessage


class Ping(_Described):
    """Sent when nothing else has been for a while."""

    type: Literal["ping"] = "ping"


class ContentBlockStart(_Described):
    type: Literal["content_block_start"] = "content_block_start"
    index: int
    content_block: Block


class TextDelta(_Described):
    type: Literal["text_delta"] = "text_delta"
    text: str


class ThinkingDelta(_Described):
    type: Literal["thinking_delta"] = "thinking_delta"
    thinking: str


class InputJsonDelta(_Described):
    type: Literal["input_json_delta"] = "input_json_delta"
    partial_json: str


class ContentBlockDelta(_Described):
    type: Literal["content_block_delta"] = "content_block_delta"
    index: int
    delta: TextDelta | ThinkingDelta | InputJsonDelta


class ContentBlockStop(_Described):
    type: Literal["content_block_stop"] = "content_block_stop"
    index: int


class StopDelta(_Described):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(_Described):
    """Why the message ends, and what it took."""

    type: Literal["message_delta"] = "message_delta"
    delta: StopDelta
    usage: Usage


class MessageStop(_Described):
    """The last event of a stream."""

    type: Literal["message_stop"] = "message_stop"


StreamEvent = (
    MessageStart
    | Ping
    | ContentBlockStart
    | ContentBlockDelta
    | ContentBlockStop
    | MessageDelta
    | MessageStop
    | ErrorBody
)


class MessageBuilder:
    """The message so far."""

    def __init__(self, model: str, prompt_tokens: int) -> None:
        usage = Usage(input_tokens=prompt_tokens, cache_read_input_tokens=0, output_tokens=0)
        self.message = AssistantMessage(
            id=f"msg_{uuid.uuid4().hex}", model=model, content=[], stop_reason=None, stop_sequence=None, usage=usage
        )
        self._is_open = False  # whether the last block may still grow

    def start(self) -> MessageStart:
        return MessageStart(message=self.message.model_copy(update={"content": []}))

    def token(self, token: Token) -> Iterator[StreamEvent]:
        """Take a token's parts."""
        for part in token.as_parts():
            if isinstance(part, ToolCallPart):
                yield from self._tool_use(part)
            elif part.text:
                yield from self._text(part)

    def finish(self, finished: Finished) -> Iterator[StreamEvent]:
        """Take the end of the sequence."""
        yield from self._close()
        stop_sequence = finished.stop_reason if isinstance(finished.stop_reason, str) else None
        self.message.stop_reason = self._stop_reason(finished, stop_sequence)
        self.message.stop_sequence = stop_sequence
        self.message.usage = Usage(
            input_tokens=finished.prompt_tokens - finished.cached_tokens,
            cache_read_input_tokens=finished.cached_tokens,
            output_tokens=finished.completion_tokens,
        )
        delta = StopDelta(stop_reason=self.message.stop_reason, stop_sequence=stop_sequence)
        yield MessageDelta(delta=delta, usage=self.message.usage)
        yield MessageStop()

    def _text(self, part: TextPart) -> Iterator[StreamEvent]:
        """Let the last block grow if it is of the same kind, else begin a new one."""
        is_content = part.kind == "content"
        last = self.message.content[-1] if self._is_open else None
        if not isinstance(last, TextBlock if is_content else ThinkingBlock):
            yield from self._open(TextBlock(text="") if is_content else ThinkingBlock(thinking=""))
            last = self.message.content[-1]
        if isinstance(last, TextBlock):
            last.text += part.text
            yield self._delta(TextDelta(text=part.text))
        elif isinstance(last, ThinkingBlock):
            last.thinking += part.text
            yield self._delta(ThinkingDelta(thinking=part.text))

    def _tool_use(self, call: ToolCallPart) -> Iterator[StreamEvent]:
        yield from self._open(ToolUseBlock(id=f"toolu_{uuid.uuid4().hex}", name=call.name, input={}))
        yield self._delta(InputJsonDelta(partial_json=call.arguments))
        block = self.message.content[-1]
        assert isinstance(block, ToolUseBlock)
        block.input = json.loads(call.arguments)
        yield from self._close()

    def _open(self, block: Block) -> Iterator[StreamEvent]:
        yield from self._close()
        self.message.content.append(block)
        self._is_open = True
        yield ContentBlockStart(index=self._index, content_block=block.model_copy())

    def _close(self) -> Iterator[StreamEvent]:
        if self._is_open:
            self._is_open = False
            yield ContentBlockStop(index=self._index)

    def _delta(self, delta: TextDelta | ThinkingDelta | InputJsonDelta) -> ContentBlockDelta:
        return ContentBlockDelta(index=self._index, delta=delta)

    @property
    def _index(self) -> int:
        return len(self.message.content) - 1

    def _stop_reason(self, finished: Finished, stop_sequence: str | None) -> StopReason:
        if any(isinstance(block, ToolUseBlock) for block in self.message.content):
            return "tool_use"
        if finished.finish_reason == "length":
            return "max_tokens"
        return "end_turn" if stop_sequence is None else "stop_sequence"
