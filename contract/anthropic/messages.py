"""`POST /v1/messages`, and `/v1/messages/count_tokens`."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from contract.answers import Answer
from contract.anthropic.answer import (
    AssistantMessage,
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    MessageBuilder,
    MessageDelta,
    MessageStart,
    MessageStop,
    Ping,
    StreamEvent,
)
from contract.anthropic.dialect import DIALECT, ErrorBody, error_body
from contract.anthropic.request import CountTokensBody, MessagesBody
from contract.bodies import check_model, read_body
from contract.endpoints import Accepted, Endpoint, Incoming, Question, Writer
from contract.refusals import DIALECTS
from contract.sse import data_frame
from interface.engine import Lexicon
from interface.events import Event, Failed, Finished, PromptEcho, Token
from interface.requests import GenerationRequest

DEFAULT_TEMPERATURE = 1.0

REFUSALS = {
    400: "The body is not valid, or the prompt does not fit the context.",
    404: "No such model.",
    413: "The body is too large.",
    415: "The body does not call itself JSON.",
    500: "The engine failed on the way.",
    503: "No engine, or no place in its queue, just now.",
}


class MessagesWriter:
    """Each event with its name, which Anthropic's SDKs go by. There is no `[DONE]`."""

    def __init__(self, model: str, prompt_tokens: int) -> None:
        self.builder = MessageBuilder(model, prompt_tokens)

    def start(self) -> bytes:
        return _frame(self.builder.start())

    def event(self, event: Event) -> bytes:
        match event:
            case PromptEcho():
                return b""
            case Failed():
                return _frame(error_body(503 if event.kind == "shutdown" else 500, event.message))
            case Finished():
                return b"".join(map(_frame, self.builder.finish(event)))
        return b"".join(map(_frame, self.builder.token(event)))

    def silence(self) -> bytes:
        return _frame(Ping())

    def end(self) -> bytes:
        return b""


@dataclass(frozen=True, slots=True)
class MessagesCall:
    """One sequence, answered as a message."""

    requests: Sequence[GenerationRequest]
    stream: bool
    model: str

    def writer(self, accepted: Accepted) -> Writer:
        return MessagesWriter(self.model, accepted.prompt_tokens[0])

    def answer(self, accepted: Accepted, events: Sequence[Event]) -> Answer:
        builder = MessageBuilder(self.model, accepted.prompt_tokens[0])
        for event in events:
            match event:
                case Failed():
                    return DIALECT.failure(event)
                case Finished():
                    list(builder.finish(event))
                case PromptEcho():
                    pass
                case _:
                    list(builder.token(event))
        return Answer(200, builder.message.model_dump_json().encode())


class TokenCount(BaseModel):
    """How many tokens a conversation has."""

    model_config = ConfigDict(extra="forbid")

    input_tokens: int


def parse_messages(incoming: Incoming) -> MessagesCall:
    """Raises Refusal."""
    body = read_body(MessagesBody, incoming.body)
    model = check_model(body.model, incoming.models)
    request = GenerationRequest(
        prompt=body.prompt(),
        params=body.params(),
        grammar=body.grammar(),
        parse_response=True,
        clamp_max_tokens=True,
        default_temperature=DEFAULT_TEMPERATURE,
    )
    return MessagesCall([request], body.stream, model)


def parse_count_tokens(incoming: Incoming) -> Question:
    """Raises Refusal."""
    body = read_body(CountTokensBody, incoming.body)
    check_model(body.model, incoming.models)
    prompt = body.prompt()

    def count(lexicon: Lexicon) -> Answer:
        number = len(lexicon.tokenize(prompt).token_ids)
        return Answer(200, TokenCount(input_tokens=number).model_dump_json().encode())

    return Question(count)


def _frame(event: StreamEvent) -> bytes:
    return data_frame(event.model_dump_json().encode(), event.type)


def _example() -> str:
    """A short stream, as the writer writes it."""
    writer = MessagesWriter("a-model", 8)
    writer.builder.message.id = "msg_1"
    token = Token("The answer is 4.", 311, ms=1.0, is_first=True)
    finished = Finished("stop", 8, 6, prefill_ms=1.0, decode_ms=1.0, total_ms=2.0)
    return (writer.start() + writer.event(token) + writer.event(finished) + writer.end()).decode()


MESSAGES = Endpoint(
    path="/v1/messages",
    parse=parse_messages,
    summary="Answer a conversation (Anthropic's API)",
    request=MessagesBody,
    answer=AssistantMessage,
    stream=(
        MessageStart,
        Ping,
        ContentBlockStart,
        ContentBlockDelta,
        ContentBlockStop,
        MessageDelta,
        MessageStop,
        ErrorBody,
    ),
    stream_description="With `stream: true`: server-sent events, each with its `type` as the event's name.",
    stream_example=_example(),
    example={"max_tokens": 100, "messages": [{"role": "user", "content": "What is 2 + 2?"}]},
    refusals=REFUSALS,
    error=ErrorBody,
)

COUNT_TOKENS = Endpoint(
    path="/v1/messages/count_tokens",
    parse=parse_count_tokens,
    summary="Count a conversation's tokens (Anthropic's API)",
    request=CountTokensBody,
    answer=TokenCount,
    example={"messages": [{"role": "user", "content": "What is 2 + 2?"}]},
    refusals=REFUSALS,
    error=ErrorBody,
)

DIALECTS.by_prefix["/v1/messages"] = DIALECT
