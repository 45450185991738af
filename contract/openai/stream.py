"""Completions and chat completions out of events: a whole answer is made by joining the pieces of its stream.

An `Assembly` turns events into pieces, each of which belongs to one choice. The writer sends every piece in a chunk of
its own; the whole answer joins them. So the two have the same content.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from contract.answers import Answer, Wire, model_answer
from contract.endpoints import Accepted, Writer
from contract.openai.dialect import OpenAIDialect, failure_frame
from contract.openai.usage import CompletionUsage, usage, usage_so_far
from contract.sse import DONE, HEARTBEAT, FrameTemplate, frame
from interface.events import Event, Failed, Finished, FinishReason, Token
from interface.requests import GenerationRequest

Piece = TypeVar("Piece")
Store = Callable[[Any], None]
"""Takes a whole answer of the endpoint's."""

FINISH_REASONS: dict[FinishReason, FinishReason] = {"stop": "stop", "length": "length", "abort": "stop"}
"""An aborted sequence has no reader any more; the API has no word for it."""


@dataclass(frozen=True, slots=True)
class Head:
    """The fields that all chunks of an answer have in common.

    Each answer has an id of its own, and not its request's: a client may send one X-Request-Id with many requests, and
    some take answers with the same id for the same message.
    """

    id: str
    model: str
    system_fingerprint: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))


class OfChoice(Protocol):
    """A piece of an answer that belongs to one choice."""

    index: int


Choice = TypeVar("Choice", bound=OfChoice)


def by_choice(pieces: Iterable[Choice]) -> list[list[Choice]]:
    """The pieces of each choice, in the order in which they came."""
    choices: dict[int, list[Choice]] = {}
    for piece in pieces:
        choices.setdefault(piece.index, []).append(piece)
    return [choices[index] for index in sorted(choices)]


class Assembly(Protocol[Piece]):
    """The state of one answer. `finished` holds the ends of its sequences, by their index."""

    finished: dict[int, Finished]

    def start(self) -> Iterable[Piece]:
        """The pieces that come before the first event."""

    def take(self, event: Event) -> Piece | None:
        """The piece that an event adds; None if it adds none. Not called with `Failed`."""

    def only_text(self, token: Token) -> str | None:
        """The text that a token adds, if it adds nothing else; None if `take` has to make its piece."""

    def text_piece(self, index: int, text: str) -> Piece:
        """The piece of a token that adds only text."""

    def chunk(self, pieces: list[Piece], usage: CompletionUsage | None) -> Wire:
        """An event of the stream."""

    def whole(self, pieces: list[Piece], usage: CompletionUsage) -> Wire:
        """The whole answer, of all the pieces."""


@dataclass(frozen=True, slots=True)
class UsageOptions:
    """Where a stream reports its usage: in a chunk of its own at the end, and in all other chunks as well."""

    at_the_end: bool = False
    in_every_chunk: bool = False


class ChunkWriter(Generic[Piece]):
    """A frame for each piece; if wanted, the usage after all of them; `[DONE]`."""

    def __init__(
        self,
        assembly: Assembly[Piece],
        n: int,
        usage_options: UsageOptions,
        prompt_tokens: Sequence[int],
        store: Store | None,
    ) -> None:
        self._assembly = assembly
        self._n = n
        self._usage_at_the_end = usage_options.at_the_end
        self._usage_in_every_chunk = usage_options.in_every_chunk
        self._prompt_tokens = prompt_tokens
        self._completion_tokens: dict[int, int] = {}
        """By sequence. An event may hold several tokens; only the last one says how many there were."""
        self._templates: dict[int, FrameTemplate] = {}
        self._store = store
        self._pieces: list[Piece] = []
        """All of them, if the whole answer is to be stored."""

    def start(self) -> bytes:
        return b"".join(map(self._frame, self._assembly.start()))

    def event(self, event: Event) -> bytes:
        if isinstance(event, Failed):
            self._usage_at_the_end = False
            self._store = None
            return failure_frame(event)
        if isinstance(event, Token):
            self._completion_tokens[event.index] = self._completion_tokens.get(event.index, 0) + 1
            text = self._assembly.only_text(event)
            if text is not None and not self._usage_in_every_chunk and self._store is None:
                return self._template(event.index).fill(text) if text else b""
        piece = self._assembly.take(event)
        if isinstance(event, Finished):
            self._completion_tokens[event.index] = self._assembly.finished[event.index].completion_tokens
        return b"" if piece is None else self._frame(piece)

    def silence(self) -> bytes:
        return HEARTBEAT

    def end(self) -> bytes:
        """The usage comes last: clients keep what the latest chunk says, and this one has no choices to act on."""
        if self._store is not None and len(self._assembly.finished) == self._n:
            self._store(self._assembly.whole(self._pieces, usage(self._assembly.finished, self._n)))
        if not self._usage_at_the_end:
            return DONE
        return frame(self._assembly.chunk([], usage(self._assembly.finished, self._n))) + DONE

    def _template(self, index: int) -> FrameTemplate:
        """The frame of a choice's text, to be filled in."""
        if (template := self._templates.get(index)) is None:
            piece = self._assembly.text_piece(index, FrameTemplate.TEXT)
            template = self._templates[index] = FrameTemplate(self._frame(piece))
        return template

    def _frame(self, piece: Piece) -> bytes:
        if self._store is not None:
            self._pieces.append(piece)
        so_far = None
        if self._usage_in_every_chunk:
            so_far = usage_so_far(self._prompt_tokens, self._n, sum(self._completion_tokens.values()))
        return frame(self._assembly.chunk([piece], so_far))


@dataclass(frozen=True, slots=True)
class AssembledCall(Generic[Piece]):
    """A call that an assembly answers; `assembly` makes a new one.

    `store` is shown the whole answer, also if it was streamed.
    """

    requests: Sequence[GenerationRequest]
    stream: bool
    assembly: Callable[[], Assembly[Piece]]
    dialect: OpenAIDialect
    n: int = 1
    usage_options: UsageOptions = UsageOptions()
    store: Store | None = None

    def writer(self, accepted: Accepted) -> Writer:
        return ChunkWriter(self.assembly(), self.n, self.usage_options, accepted.prompt_tokens, self.store)

    def answer(self, accepted: Accepted, events: Sequence[Event]) -> Answer:
        assembly = self.assembly()
        pieces = list(assembly.start())
        for event in events:
            if isinstance(event, Failed):
                return self.dialect.failure(event)
            if (piece := assembly.take(event)) is not None:
                pieces.append(piece)
        whole = assembly.whole(pieces, usage(assembly.finished, self.n))
        if self.store is not None:
            self.store(whole)
        return model_answer(whole)
