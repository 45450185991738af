"""The answers of `POST /v1/chat/completions`: deltas, and the message that they add up to."""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

from contract.answers import Wire
from contract.openai.custom_tools import InputReader
from contract.openai.logprobs import ChatLogprobs, chat_logprob
from contract.openai.stream import FINISH_REASONS, Head, by_choice
from contract.openai.usage import CompletionUsage
from contract.tools import are_whole
from interface.events import ArgumentsPart, Event, Finished, Part, TextPart, Token, ToolCallPart

ChatFinishReason = Literal["stop", "length", "tool_calls", "function_call"]


@dataclass(frozen=True, slots=True)
class FunctionCall(Wire):
    """`arguments` is a JSON object as text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class MessageToolCall(Wire):
    id: str
    type: Literal["function"]
    function: FunctionCall


@dataclass(frozen=True, slots=True)
class CustomCall(Wire):
    """A custom tool's name, and the text that it gets."""

    name: str
    input: str


@dataclass(frozen=True, slots=True)
class MessageCustomCall(Wire):
    id: str
    type: Literal["custom"]
    custom: CustomCall


@dataclass(frozen=True, slots=True)
class DeltaCustomCall(Wire):
    """A custom tool's name, or a piece of its input, or both."""

    name: str | None = None
    input: str | None = None


@dataclass(frozen=True, slots=True)
class DeltaFunctionCall(Wire):
    """A function's name, or a piece of its arguments, or both."""

    name: str | None = None
    arguments: str | None = None


@dataclass(frozen=True, slots=True)
class DeltaToolCall(Wire):
    """A tool call, or a piece of one. Clients join the strings of one index, so no part of it comes twice."""

    index: int
    id: str | None = None
    type: Literal["function", "custom"] | None = None
    function: DeltaFunctionCall | None = None
    custom: DeltaCustomCall | None = None


@dataclass(slots=True)  # not frozen: one is made for each token, and that would take four times as long
class Delta(Wire):
    """What a chunk adds to a message."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[DeltaToolCall] | None = None
    function_call: DeltaFunctionCall | None = None


NOTHING = Delta()


@dataclass(slots=True)
class ChunkChoice(Wire):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason | None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None


@dataclass(slots=True)
class ChatCompletionChunk(Wire):
    """An event of a stream; the one with the usage has no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | None = None
    system_fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class AssistantReply(Wire):
    """The model's message. `content` is null if there are only tool calls."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = None
    tool_calls: list[MessageToolCall | MessageCustomCall] | None = None
    function_call: FunctionCall | None = None


@dataclass(frozen=True, slots=True)
class ChatChoice(Wire):
    index: int
    message: AssistantReply
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None


@dataclass(frozen=True, slots=True)
class ChatCompletion(Wire):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage
    system_fingerprint: str | None = None


@dataclass(slots=True)
class ChatAssembly:
    """Turns the events of `n` sequences into deltas."""

    head: Head
    n: int
    prefix: str = ""
    shows_reasoning: bool = True
    shows_logprobs: bool = False
    shows_token_ids: bool = False
    parallel_tool_calls: bool = True
    calls_functions: bool = False
    """Whether a call is shown as `function_call`, which clients of `functions` expect; then there is only one."""
    may_call: bool = False
    """Whether there are tools, so that the answer may have no text."""
    custom_tools: frozenset[str] = frozenset()
    """The names of the tools whose calls are shown with a text, and no arguments."""
    finished: dict[int, Finished] = field(default_factory=dict)
    _calls: dict[int, int] = field(default_factory=dict)
    """How many tools each choice has called."""
    _arguments: dict[int, list[str]] = field(default_factory=dict)
    """Those of each choice's last call, in pieces."""
    _inputs: dict[int, InputReader | None] = field(default_factory=dict)
    """What reads the input of each choice's last call, if it is one of a custom tool."""

    def start(self) -> Iterable[ChunkChoice]:
        """The role, once and in the order of the choices: some clients count on both.

        It comes with an empty text unless there are tools: some clients begin to show a text with it.
        """
        content = None if self.may_call and not self.prefix else self.prefix
        return [ChunkChoice(index, Delta("assistant", content), None, None) for index in range(self.n)]

    def take(self, event: Event) -> ChunkChoice | None:
        match event:
            case Token():
                return self._token(event)
            case Finished():
                return self._end(event)
        return None

    def only_text(self, token: Token) -> str | None:
        return None if self.shows_token_ids or (self.shows_logprobs and token.logprobs) else token.only_content

    def text_piece(self, index: int, text: str) -> ChunkChoice:
        return ChunkChoice(index, Delta(content=text), None, None)

    def chunk(self, pieces: list[ChunkChoice], usage: CompletionUsage | None) -> ChatCompletionChunk:
        head = self.head
        return ChatCompletionChunk(
            head.id, "chat.completion.chunk", head.created, head.model, pieces, usage, head.system_fingerprint
        )

    def whole(self, pieces: list[ChunkChoice], usage: CompletionUsage) -> ChatCompletion:
        choices = [_joined(choice) for choice in by_choice(pieces)]
        head = self.head
        return ChatCompletion(
            head.id, "chat.completion", head.created, head.model, choices, usage, head.system_fingerprint
        )

    def _token(self, token: Token) -> ChunkChoice | None:
        parts = token.as_parts()
        shows_logprobs = self.shows_logprobs and token.logprobs is not None
        if not parts and not shows_logprobs and not self.shows_token_ids:
            return None  # its text comes with a later token
        delta = self._delta(token.index, parts)
        if delta == NOTHING and not shows_logprobs and not self.shows_token_ids:
            return None  # reasoning that is not shown, or of a custom tool's arguments none of its input
        return ChunkChoice(
            token.index,
            delta,
            ChatLogprobs([chat_logprob(token.logprobs)], None) if shows_logprobs and token.logprobs else None,
            None,
            token_ids=token.ids() if self.shows_token_ids else None,
        )

    def _delta(self, index: int, parts: Sequence[Part]) -> Delta:
        calls = [call for part in parts if not isinstance(part, TextPart) for call in self._call(index, part)]
        calls = [call for call in calls if self.parallel_tool_calls or call.index == 0]
        return Delta(
            content=_text(parts, "content"),
            reasoning_content=_text(parts, "reasoning") if self.shows_reasoning else None,
            tool_calls=None if self.calls_functions else calls or None,
            function_call=_joined_function(calls) if self.calls_functions and calls else None,
        )

    def _call(self, index: int, part: ToolCallPart | ArgumentsPart) -> Iterable[DeltaToolCall]:
        """What a part adds to a choice's calls; nothing, if it adds nothing to a custom tool's input."""
        number = self._calls.get(index, 0)
        if isinstance(part, ArgumentsPart):
            self._arguments[index].append(part.text)
            if (reader := self._inputs[index]) is None:
                yield DeltaToolCall(number - 1, function=DeltaFunctionCall(arguments=part.text))
            elif text := reader.feed(part.text):
                yield DeltaToolCall(number - 1, custom=DeltaCustomCall(input=text))
            return
        self._calls[index] = number + 1
        arguments = part.arguments or "{}" if part.is_whole else part.arguments
        self._arguments[index] = [arguments]
        reader = self._inputs[index] = InputReader() if part.name in self.custom_tools else None
        id = f"call_{uuid.uuid4().hex}"
        if reader is None:
            yield DeltaToolCall(number, id, "function", DeltaFunctionCall(part.name, arguments))
        else:
            yield DeltaToolCall(number, id, "custom", custom=DeltaCustomCall(part.name, reader.feed(arguments)))

    def _end(self, finished: Finished) -> ChunkChoice:
        self.finished[finished.index] = finished
        reason: ChatFinishReason = "length" if FINISH_REASONS[finished.finish_reason] == "length" else "stop"
        if reason == "stop" and are_whole(self._arguments.get(finished.index, ())):
            reason = "function_call" if self.calls_functions else "tool_calls"
        return ChunkChoice(finished.index, Delta(), None, reason, finished.stop_reason)


def _text(parts: Iterable[Part], kind: str) -> str | None:
    return "".join(part.text for part in parts if isinstance(part, TextPart) and part.kind == kind) or None


def _joined(pieces: list[ChunkChoice]) -> ChatChoice:
    """A choice, of all its deltas; the last one has the reason why it ends."""
    last = pieces[-1]
    assert last.finish_reason is not None
    deltas = [piece.delta for piece in pieces]
    calls = _joined_calls(call for delta in deltas for call in delta.tool_calls or ())
    function = [delta.function_call for delta in deltas if delta.function_call is not None]
    content = "".join(delta.content or "" for delta in deltas)
    message = AssistantReply(
        "assistant",
        content or (None if calls or function else ""),
        None,
        reasoning_content="".join(delta.reasoning_content or "" for delta in deltas) or None,
        tool_calls=calls or None,
        function_call=_function_call(function) if function else None,
    )
    logprobs = [entry for piece in pieces if piece.logprobs for entry in piece.logprobs.content]
    token_ids = [token_id for piece in pieces for token_id in piece.token_ids or ()]
    return ChatChoice(
        last.index,
        message,
        ChatLogprobs(logprobs, None) if logprobs else None,
        last.finish_reason,
        last.stop_reason,
        token_ids or None,
    )


def _joined_calls(pieces: Iterable[DeltaToolCall]) -> list[MessageToolCall | MessageCustomCall]:
    """The calls that all these pieces add up to; the pieces of a call come one after the other."""
    calls: list[MessageToolCall | MessageCustomCall] = []
    for _, group in groupby(pieces, key=lambda piece: piece.index):
        call_pieces = list(group)
        call_id = "".join(piece.id or "" for piece in call_pieces)
        if call_pieces[0].type == "custom":
            custom = _custom_call([piece.custom for piece in call_pieces if piece.custom is not None])
            calls.append(MessageCustomCall(call_id, "custom", custom))
        else:
            function = _function_call([piece.function for piece in call_pieces if piece.function is not None])
            calls.append(MessageToolCall(call_id, "function", function))
    return calls


def _function_call(pieces: Sequence[DeltaFunctionCall]) -> FunctionCall:
    return FunctionCall(
        "".join(piece.name or "" for piece in pieces), "".join(piece.arguments or "" for piece in pieces)
    )


def _custom_call(pieces: Sequence[DeltaCustomCall]) -> CustomCall:
    return CustomCall("".join(piece.name or "" for piece in pieces), "".join(piece.input or "" for piece in pieces))


def _joined_function(calls: Sequence[DeltaToolCall]) -> DeltaFunctionCall:
    """What the pieces of one call in one delta add to it."""
    joined = _function_call([call.function for call in calls if call.function is not None])
    return DeltaFunctionCall(joined.name or None, joined.arguments)
