"""`POST /v1/responses`, and `/v1/responses/input_tokens`."""

import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from contract.answers import Answer, Wire, model_answer, to_json
from contract.bodies import check_model, read_body
from contract.endpoints import Accepted, Endpoint, Incoming, Question
from contract.openai.background import BackgroundCall
from contract.openai.client_tools import CLIENT_TOOLS
from contract.openai.completions import REFUSALS
from contract.openai.dialect import OpenAIDialect, OpenAIError
from contract.openai.kept_conversations import KeptConversations, with_ids
from contract.openai.kept_responses import KeptResponses, listed
from contract.openai.response_builder import ResponseBuilder
from contract.openai.response_settings import ReasoningSettings, TextSettings
from contract.openai.responses_answer import ResponseObject, ResponseStreamEvent, ShownConversation, ShownReasoning
from contract.openai.responses_request import ENCRYPTED_REASONING, InputBody, Items, ResponsesBody
from contract.openai.responses_tools import shown_tools
from contract.sse import HEARTBEAT, FrameTemplate, typed_frame
from interface.engine import Lexicon
from interface.events import Event, Failed, Finished, Token
from interface.kept import Kept
from interface.requests import GenerationRequest

DIALECT = OpenAIDialect(prompt_field="input")


@dataclass(slots=True)
class ResponsesWriter:
    """Writes each event with its name and its number. There is no `[DONE]`."""

    builder: ResponseBuilder
    keep: Callable[[ResponseObject], None]
    """Called with the response when it has ended."""
    _template: FrameTemplate | None = field(default=None, init=False)
    """The frame of the open message's text, to be filled in."""

    @property
    def response(self) -> ResponseObject:
        return self.builder.response

    def start(self) -> bytes:
        return b"".join(map(typed_frame, self.builder.start()))

    def event(self, event: Event) -> bytes:
        match event:
            case Token():
                return self._token(event)
            case Finished():
                frames = b"".join(map(typed_frame, self.builder.finish(event)))
                self.keep(self.builder.response)
                return frames
            case Failed():
                frames = b"".join(map(typed_frame, self.builder.fail(event)))
                self.keep(self.builder.response)
                return frames
        return b""

    def _token(self, token: Token) -> bytes:
        text = token.only_content
        if text and (number := self.builder.grow(text)) is not None:
            if self._template is None:
                blank = self.builder.text_delta(FrameTemplate.NUMBER, FrameTemplate.TEXT, [])
                self._template = FrameTemplate(typed_frame(blank))
            return self._template.fill_numbered(number, text)
        if frames := b"".join(map(typed_frame, self.builder.token(token))):
            self._template = None  # another item may have begun
        return frames

    def silence(self) -> bytes:
        return HEARTBEAT

    def end(self) -> bytes:
        return b""


@dataclass(frozen=True, slots=True)
class ResponsesCall:
    """One sequence, answered as a response."""

    requests: Sequence[GenerationRequest]
    stream: bool
    body: ResponsesBody
    items: Items
    input: bytes
    """The items as they are kept with the response; empty if it is not to be kept."""
    model: str
    kept: Kept

    def writer(self, accepted: Accepted) -> ResponsesWriter:
        return self.new_writer(self._keep)

    def in_background(self) -> BackgroundCall:
        """The same, made whether its client waits or not."""
        maker = self.new_writer(self._join_conversation)
        return BackgroundCall(self.requests, self.stream, maker, self.kept, self.input)

    def new_writer(self, keep: Callable[[ResponseObject], None]) -> ResponsesWriter:
        # Not the id of the request, which a client may choose and use again.
        blank = _blank(self.body, self.model, f"resp_{uuid.uuid4().hex}")
        builder = ResponseBuilder(
            blank,
            shows_logprobs=self.body.chosen_logprobs is not None,
            parallel_tool_calls=self.body.parallel_tool_calls,
            tools={tool.called_name: tool for tool in self.body.tools},
            repeats_reasoning=ENCRYPTED_REASONING in self.body.include,
            summarizes_reasoning=blank.reasoning.summary is not None,
        )
        return ResponsesWriter(builder, keep)

    def answer(self, accepted: Accepted, events: Sequence[Event]) -> Answer:
        writer = self.writer(accepted)
        for event in events:
            if isinstance(event, Failed):
                return DIALECT.failure(event)
            writer.event(event)
        return model_answer(writer.builder.response)

    def _keep(self, response: ResponseObject) -> None:
        if self.body.store:
            KeptResponses(self.kept).keep(response, self.input)
        self._join_conversation(response)

    def _join_conversation(self, response: ResponseObject) -> None:
        if self.body.conversation is not None and response.status != "failed":
            output = [json.loads(to_json(item)) for item in response.output]
            new = with_ids([*self.items.own, *output], self.items.before)
            KeptConversations(self.kept).add(self.body.conversation, new)


def _blank(body: ResponsesBody, model: str, id: str) -> ResponseObject:
    """A response before anything has been generated."""
    return ResponseObject(
        id=id,
        object="response",
        created_at=int(time.time()),
        completed_at=None,
        status="in_progress",
        error=None,
        incomplete_details=None,
        model=model,
        output=[],
        background=body.background,
        frequency_penalty=body.frequency_penalty,
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        metadata=body.metadata,
        parallel_tool_calls=body.parallel_tool_calls,
        presence_penalty=body.presence_penalty,
        previous_response_id=body.previous_response_id,
        prompt_cache_key=body.prompt_cache_key,
        reasoning=_shown_reasoning(body.reasoning or ReasoningSettings()),
        safety_identifier=body.safety_identifier,
        service_tier="default",
        store=body.store,
        temperature=body.temperature,
        text=(body.text or TextSettings()).shown(),
        tool_choice=_shown_choice(body),
        tools=shown_tools(body.tools),
        top_logprobs=body.top_logprobs or 0,
        top_p=body.top_p,
        truncation=body.truncation,
        usage=None,
        user=body.user,
        conversation=None if body.conversation is None else ShownConversation(body.conversation),
    )


def _shown_reasoning(settings: ReasoningSettings) -> ShownReasoning:
    return ShownReasoning(settings.effort, settings.chosen_summary, settings.context)


def _shown_choice(body: ResponsesBody) -> str | dict[str, Any]:
    choice = body.tool_choice
    types: dict[str | None, str] = {}
    for tool in body.tools:
        types |= {tool.namespace_name: "namespace", tool.called_name: tool.type, tool.name: tool.type}

    def shown(name: str) -> dict[str, Any]:
        return {"type": name} if types[name] in CLIENT_TOOLS else {"type": types[name], "name": name}

    if choice.name is not None:
        return shown(choice.name)
    if choice.allowed is None:
        return choice.mode
    return {"type": "allowed_tools", "mode": choice.mode, "tools": [shown(name) for name in choice.allowed]}


@dataclass(frozen=True, slots=True)
class InputTokens(Wire):
    """How many tokens a conversation has."""

    object: Literal["response.input_tokens"]
    input_tokens: int


def parse(incoming: Incoming) -> ResponsesCall | BackgroundCall:
    """Raises Refusal."""
    body = read_body(ResponsesBody, incoming.body)
    model = check_model(body.model, incoming.models)
    body.check()
    items = body.items(incoming.kept)
    body = body.after(items.all)
    grammar = body.text_grammar()
    requests = body.requests(
        [body.conversation_prompt(items.all)],
        body.params(max_tokens=body.max_output_tokens, logprobs=body.chosen_logprobs),
        grammar=grammar,
        parse_response=grammar is None or bool(body.tools),
        fill_context=True,
    )
    input = listed(items.all) if body.store else b""
    call = ResponsesCall(requests, body.stream, body, items, input, model, incoming.kept)
    return call.in_background() if body.background else call


def parse_input_tokens(incoming: Incoming) -> Question:
    """Raises Refusal."""
    body = read_body(InputBody, incoming.body)
    check_model(body.model, incoming.models)
    items = body.items(incoming.kept).all
    prompt = body.after(items).conversation_prompt(items)

    def count(lexicon: Lexicon) -> Answer:
        return model_answer(InputTokens("response.input_tokens", len(lexicon.tokenize(prompt).token_ids)))

    return Question(count)


RESPONSES = Endpoint(
    path="/v1/responses",
    parse=parse,
    summary="Answer a conversation in items (OpenAI's newer API)",
    request=ResponsesBody,
    answer=ResponseObject,
    stream=get_args(ResponseStreamEvent),
    stream_description=(
        "With `stream: true`: server-sent events, each with its `type` as the event's name and a number. The first is "
        "`response.created`, the last `response.completed`, `response.incomplete` or `response.failed`."
    ),
    stream_example=(
        "event: response.output_text.delta\n"
        'data: {"type": "response.output_text.delta", "sequence_number": 4, "item_id": "msg_1", "output_index": 0, '
        '"content_index": 0, "delta": "4", "logprobs": []}\n\n'
    ),
    example={"input": "What is 2 + 2?", "stream": True},
    refusals=REFUSALS,
    error=OpenAIError,
)
INPUT_TOKENS = Endpoint(
    path="/v1/responses/input_tokens",
    parse=parse_input_tokens,
    summary="Count a conversation's tokens (OpenAI's newer API)",
    request=InputBody,
    answer=InputTokens,
    example={"input": "What is 2 + 2?"},
    refusals=REFUSALS,
    error=OpenAIError,
)
