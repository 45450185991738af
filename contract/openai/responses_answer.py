"""The answers of `POST /v1/responses`: a response of items, and the events of its stream."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from contract.answers import Wire
from contract.openai.client_tools import ClientCall
from contract.openai.logprobs import ChatTokenLogprob

Summary = Literal["auto", "concise", "detailed"]
ReasoningContext = Literal["auto", "current_turn", "all_turns"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]
ResponseStatus = Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class OutputText(Wire):
    type: Literal["output_text"]
    text: str
    annotations: list[str]
    logprobs: list[ChatTokenLogprob]


@dataclass(frozen=True, slots=True)
class OutputMessage(Wire):
    type: Literal["message"]
    id: str
    status: ItemStatus
    role: Literal["assistant"]
    content: list[OutputText]


@dataclass(frozen=True, slots=True)
class OutputFunctionCall(Wire):
    """`call_id` is what the result of the call must name; `arguments` is a JSON object as text.

    `namespace` is set if the function belongs to one.
    """

    type: Literal["function_call"]
    id: str
    call_id: str
    name: str
    arguments: str
    status: ItemStatus
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class OutputCustomCall(Wire):
    """A call of a custom tool, with a text as its input."""

    type: Literal["custom_tool_call"]
    id: str
    call_id: str
    name: str
    input: str
    status: ItemStatus
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class ReasoningText(Wire):
    type: Literal["reasoning_text"]
    text: str


@dataclass(frozen=True, slots=True)
class SummaryText(Wire):
    type: Literal["summary_text"]
    text: str


@dataclass(frozen=True, slots=True)
class OutputReasoning(Wire):
    """The reasoning before the answer: the content, or the summary if a request asks for one.

    `encrypted_content` is there if a request includes it, and is text, too.
    """

    type: Literal["reasoning"]
    id: str
    status: ItemStatus
    summary: list[SummaryText]
    content: list[ReasoningText]
    encrypted_content: str | None = None


OutputItem = OutputMessage | OutputFunctionCall | OutputCustomCall | ClientCall | OutputReasoning


@dataclass(frozen=True, slots=True)
class InputTokensDetails(Wire):
    cached_tokens: int
    cache_write_tokens: int


@dataclass(frozen=True, slots=True)
class OutputTokensDetails(Wire):
    reasoning_tokens: int


@dataclass(frozen=True, slots=True)
class ResponseUsage(Wire):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


@dataclass(frozen=True, slots=True)
class ResponseFailure(Wire):
    code: Literal["server_error", "invalid_prompt"]
    message: str


@dataclass(frozen=True, slots=True)
class IncompleteDetails(Wire):
    reason: Literal["max_output_tokens"]


@dataclass(frozen=True, slots=True)
class ShownReasoning(Wire):
    """How much to reason, whether to show it as a summary, and which of it the model saw, as the request has asked."""

    effort: str | None
    summary: Summary | None
    context: ReasoningContext | None = None


@dataclass(frozen=True, slots=True)
class ShownConversation(Wire):
    """The conversation that the input and the output have joined."""

    id: str


@dataclass(frozen=True, slots=True)
class ResponseObject(Wire):
    """A whole answer. The fields after `output` repeat those of the request; null is the model's own default."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: ResponseStatus
    error: ResponseFailure | None
    incomplete_details: IncompleteDetails | None
    model: str
    output: list[OutputItem]
    background: bool
    frequency_penalty: float
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    presence_penalty: float
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: ShownReasoning
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool
    temperature: float | None
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float | None
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    user: str | None
    conversation: ShownConversation | None = None


@dataclass(frozen=True, slots=True)
class ResponseEvent(Wire):
    """The response at the beginning and at the end of a stream."""

    type: Literal[
        "response.created", "response.in_progress", "response.completed", "response.incomplete", "response.failed"
    ]
    sequence_number: int
    response: ResponseObject


@dataclass(frozen=True, slots=True)
class OutputItemEvent(Wire):
    type: Literal["response.output_item.added", "response.output_item.done"]
    sequence_number: int
    output_index: int
    item: OutputItem


@dataclass(frozen=True, slots=True)
class ContentPartEvent(Wire):
    type: Literal["response.content_part.added", "response.content_part.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    part: OutputText


@dataclass(frozen=True, slots=True)
class EventAlternative(Wire):
    token: str
    logprob: float


@dataclass(frozen=True, slots=True)
class EventLogprob(Wire):
    """A log probability as events show it: without the bytes that items have."""

    token: str
    logprob: float
    top_logprobs: list[EventAlternative]


def event_logprobs(logprobs: Iterable[ChatTokenLogprob]) -> list[EventLogprob]:
    return [
        EventLogprob(
            token.token, token.logprob, [EventAlternative(top.token, top.logprob) for top in token.top_logprobs]
        )
        for token in logprobs
    ]


@dataclass(frozen=True, slots=True)
class OutputTextDelta(Wire):
    type: Literal["response.output_text.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: list[EventLogprob]


@dataclass(frozen=True, slots=True)
class OutputTextDone(Wire):
    type: Literal["response.output_text.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: list[EventLogprob]


@dataclass(frozen=True, slots=True)
class ReasoningTextDelta(Wire):
    type: Literal["response.reasoning_text.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str


@dataclass(frozen=True, slots=True)
class ReasoningTextDone(Wire):
    type: Literal["response.reasoning_text.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str


@dataclass(frozen=True, slots=True)
class SummaryPartEvent(Wire):
    type: Literal["response.reasoning_summary_part.added", "response.reasoning_summary_part.done"]
    sequence_number: int
    item_id: str
    output_index: int
    summary_index: int
    part: SummaryText


@dataclass(frozen=True, slots=True)
class SummaryTextDelta(Wire):
    type: Literal["response.reasoning_summary_text.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    summary_index: int
    delta: str


@dataclass(frozen=True, slots=True)
class SummaryTextDone(Wire):
    type: Literal["response.reasoning_summary_text.done"]
    sequence_number: int
    item_id: str
    output_index: int
    summary_index: int
    text: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta(Wire):
    type: Literal["response.function_call_arguments.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    delta: str


@dataclass(frozen=True, slots=True)
class ArgumentsDone(Wire):
    type: Literal["response.function_call_arguments.done"]
    sequence_number: int
    item_id: str
    output_index: int
    arguments: str


@dataclass(frozen=True, slots=True)
class InputDelta(Wire):
    type: Literal["response.custom_tool_call_input.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    delta: str


@dataclass(frozen=True, slots=True)
class InputDone(Wire):
    type: Literal["response.custom_tool_call_input.done"]
    sequence_number: int
    item_id: str
    output_index: int
    input: str


@dataclass(frozen=True, slots=True)
class ResponseErrorEvent(Wire):
    """Sent before `response.failed`."""

    type: Literal["error"]
    sequence_number: int
    code: str | None
    message: str
    param: str | None


ResponseStreamEvent = (
    ResponseEvent
    | OutputItemEvent
    | ContentPartEvent
    | OutputTextDelta
    | OutputTextDone
    | ReasoningTextDelta
    | ReasoningTextDone
    | SummaryPartEvent
    | SummaryTextDelta
    | SummaryTextDone
    | ArgumentsDelta
    | ArgumentsDone
    | InputDelta
    | InputDone
    | ResponseErrorEvent
)
