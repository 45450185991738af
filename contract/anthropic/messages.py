"""`POST /v1/messages`, and `/v1/messages/count_tokens`."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

from contract.answers import Answer, Wire, model_answer
from contract.anthropic.answer import AssistantMessage, ContextManagement, Ping, StreamEvent
from contract.anthropic.dialect import DIALECT, ErrorBody, error_body
from contract.anthropic.message_builder import MessageBuilder, SummaryBuilder
from contract.anthropic.request import Compaction, CountTokensBody, MessagesBody
from contract.bodies import check_model, read_body
from contract.endpoints import CALL_REFUSALS, MODEL_REFUSALS, Accepted, Endpoint, Incoming, Question
from contract.refusals import STATUSES
from contract.sse import FrameTemplate, typed_frame
from interface.engine import Lexicon
from interface.events import Event, Failed, Finished, Token
from interface.requests import GenerationRequest

DEFAULT_TEMPERATURE = 1.0

REFUSALS = CALL_REFUSALS | MODEL_REFUSALS


@dataclass(slots=True)
class MessagesWriter:
    """Writes each event with its name, by which Anthropic's SDKs distinguish them. There is no `[DONE]`."""

    builder: MessageBuilder
    request_id: str
    shows_tokens: bool = True
    """False for max_tokens 0: the engine makes one token at least, which is then not shown."""
    _template: FrameTemplate | None = field(default=None, init=False)
    """The frame of the open block's text, to be filled in."""

    def start(self) -> bytes:
        return typed_frame(self.builder.start())

    def event(self, event: Event) -> bytes:
        match event:
            case Token():
                return self._token(event) if self.shows_tokens else b""
            case Finished():
                if not self.shows_tokens:
                    event = replace(event, finish_reason="length", stop_reason=None, completion_tokens=0)
                return b"".join(map(typed_frame, self.builder.finish(event)))
            case Failed():
                return typed_frame(error_body(STATUSES[event.kind], event.message, self.request_id))
        return b""

    def silence(self) -> bytes:
        return typed_frame(Ping("ping"))

    def end(self) -> bytes:
        return b""

    def _token(self, token: Token) -> bytes:
        text = token.only_content
        if text and self.builder.grow(text):
            if self._template is None:
                self._template = FrameTemplate(typed_frame(self.builder.text_delta(FrameTemplate.TEXT)))
            return self._template.fill(text)
        if frames := b"".join(map(typed_frame, self.builder.token(token))):
            self._template = None  # another block may have begun
        return frames


@dataclass(frozen=True, slots=True)
class MessagesCall:
    """One sequence, answered as a message."""

    requests: Sequence[GenerationRequest]
    stream: bool
    model: str
    max_tokens: int
    context_management: ContextManagement | None = None
    sums_up: bool = False
    shows_thinking: bool = True

    def writer(self, accepted: Accepted) -> MessagesWriter:
        return MessagesWriter(self._builder(accepted.prompt_tokens[0]), accepted.request_id, self.max_tokens > 0)

    def _builder(self, prompt_tokens: int) -> MessageBuilder:
        if self.sums_up:
            return SummaryBuilder(self.model, prompt_tokens, self.max_tokens)
        return MessageBuilder(
            self.model, prompt_tokens, self.max_tokens, self.context_management, shows_thinking=self.shows_thinking
        )

    def answer(self, accepted: Accepted, events: Sequence[Event]) -> Answer:
        writer = self.writer(accepted)
        for event in events:
            if isinstance(event, Failed):
                return DIALECT.failure(event)
            writer.event(event)
        return model_answer(writer.builder.message)


@dataclass(frozen=True, slots=True)
class TokenCount(Wire):
    """How many tokens a conversation has."""

    input_tokens: int


def parse_messages(incoming: Incoming) -> MessagesCall:
    """Raises Refusal."""
    body = read_body(MessagesBody, incoming.body)
    model = check_model(body.model, incoming.models)
    body.check()
    if body.compaction is not None:
        request = _summary_request(body, body.compaction)
        return MessagesCall([request], body.stream, model, body.max_tokens, sums_up=True)
    request = GenerationRequest(
        prompt=body.prompt(),
        params=body.params(),
        grammar=body.grammar(),
        parse_response=True,
        clamp_max_tokens=True,
        default_temperature=DEFAULT_TEMPERATURE,
    )
    context_management = None if body.context_management is None else ContextManagement(applied_edits=[])
    return MessagesCall(
        [request],
        body.stream,
        model,
        body.max_tokens,
        context_management=context_management,
        shows_thinking=body.thinking is None or body.thinking.is_shown,
    )


def _summary_request(body: MessagesBody, compaction: Compaction) -> GenerationRequest:
    """Raises Refusal."""
    return GenerationRequest(
        prompt=body.summary_prompt(compaction),
        params=body.params(),
        parse_response=True,
        clamp_max_tokens=True,
        default_temperature=0,  # the most faithful one
    )


def parse_count_tokens(incoming: Incoming) -> Question:
    """Raises Refusal."""
    body = read_body(CountTokensBody, incoming.body)
    check_model(body.model, incoming.models)
    prompt = body.prompt()

    def count(lexicon: Lexicon) -> Answer:
        return model_answer(TokenCount(len(lexicon.tokenize(prompt).token_ids)))

    return Question(count)


def _example() -> str:
    """A short stream, as the writer writes it."""
    builder = MessageBuilder("a-model", 8, max_tokens=100)
    builder.message = replace(builder.message, id="msg_1")
    writer = MessagesWriter(builder, "a-request")
    token = Token("The answer is 4.", 311, ms=1.0, is_first=True)
    finished = Finished("stop", 8, 6, prefill_ms=1.0, decode_ms=1.0, total_ms=2.0)
    return (writer.start() + writer.event(token) + writer.event(finished) + writer.end()).decode()


MESSAGES = Endpoint(
    path="/v1/messages",
    parse=parse_messages,
    summary="Answer a conversation (Anthropic's API)",
    request=MessagesBody,
    answer=AssistantMessage,
    stream=get_args(StreamEvent),
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
