"""The answers of the Messages API: a message of blocks, and the events of its stream."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from contract.answers import Wire
from contract.anthropic.dialect import ErrorBody

StopReason = Literal[
    "end_turn", "max_tokens", "model_context_window_exceeded", "stop_sequence", "tool_use", "compaction"
]


@dataclass(frozen=True, slots=True)
class TextBlock(Wire):
    type: Literal["text"]
    text: str


@dataclass(frozen=True, slots=True)
class ThinkingBlock(Wire):
    """The reasoning before the answer.

    This server does not sign. `signature` has the text of a block whose `thinking` is omitted, for later requests: it
    is not encrypted. It is empty otherwise.
    """

    type: Literal["thinking"]
    thinking: str
    signature: str


@dataclass(frozen=True, slots=True)
class ToolUseBlock(Wire):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CompactionBlock(Wire):
    """The summary of a conversation, for later requests; null if there is none. It has no signature."""

    type: Literal["compaction"]
    content: str | None


Block = TextBlock | ThinkingBlock | ToolUseBlock | CompactionBlock


@dataclass(frozen=True, slots=True)
class ThinkingTokens(Wire):
    thinking_tokens: int


@dataclass(frozen=True, slots=True)
class Usage(Wire):
    input_tokens: Annotated[int, Field(description="Tokens of the prompt that were not in the prefix cache.")]
    cache_read_input_tokens: Annotated[int, Field(description="Tokens of the prompt that were in the prefix cache.")]
    cache_creation_input_tokens: int
    output_tokens: int
    output_tokens_details: ThinkingTokens


@dataclass(frozen=True, slots=True)
class ContextManagement(Wire):
    """What a request's `context_management` has changed: nothing, as a conversation stays whole."""

    applied_edits: Annotated[list[dict[str, Any]], Field(max_length=0)]


@dataclass(frozen=True, slots=True)
class AssistantMessage(Wire):
    """A whole answer."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Block]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: Usage
    context_management: ContextManagement | None = None


@dataclass(frozen=True, slots=True)
class MessageStart(Wire):
    """The first event of a stream: the message, without content yet."""

    type: Literal["message_start"]
    message: AssistantMessage


@dataclass(frozen=True, slots=True)
class Ping(Wire):
    """Sent when nothing else has been for a while."""

    type: Literal["ping"]


@dataclass(frozen=True, slots=True)
class ContentBlockStart(Wire):
    type: Literal["content_block_start"]
    index: int
    content_block: Block


@dataclass(frozen=True, slots=True)
class TextDelta(Wire):
    type: Literal["text_delta"]
    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta(Wire):
    type: Literal["thinking_delta"]
    thinking: str


@dataclass(frozen=True, slots=True)
class SignatureDelta(Wire):
    """The end of a thinking block. Some clients drop a block that ends without one, so an empty one is sent, too."""

    type: Literal["signature_delta"]
    signature: str


@dataclass(frozen=True, slots=True)
class InputJsonDelta(Wire):
    type: Literal["input_json_delta"]
    partial_json: str


@dataclass(frozen=True, slots=True)
class CompactionDelta(Wire):
    """A whole summary: clients put the latest one in place of those before it."""

    type: Literal["compaction_delta"]
    content: str | None


Delta = TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta | CompactionDelta


@dataclass(frozen=True, slots=True)
class ContentBlockDelta(Wire):
    type: Literal["content_block_delta"]
    index: int
    delta: Delta


@dataclass(frozen=True, slots=True)
class ContentBlockStop(Wire):
    type: Literal["content_block_stop"]
    index: int


@dataclass(frozen=True, slots=True)
class StopDelta(Wire):
    stop_reason: StopReason
    stop_sequence: str | None


@dataclass(frozen=True, slots=True)
class MessageDelta(Wire):
    """The reason why the message ends, and its usage."""

    type: Literal["message_delta"]
    delta: StopDelta
    usage: Usage
    context_management: ContextManagement | None = None


@dataclass(frozen=True, slots=True)
class MessageStop(Wire):
    """The last event of a stream."""

    type: Literal["message_stop"]


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
