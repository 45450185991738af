"""The messages between an engine process and its workers, over a Unix stream socket.

A frame is a header and a body. The header gives the body's length, the kind of message, and the number of the request
that it belongs to, or 0; the body is JSON. pydantic writes and reads it, by the types that the messages have here, so
what arrives has been checked. The number is outside the body: a body that cannot be read still says which request to
refuse.

A worker says `Hello` and gets `Welcome` or `Refused`. Then it may send requests, each answered by a message with its
number: `Accepted`, `TokenIds`, `Text`, `Piece`, `Pieces`, `Done` or `Refused`. Events come in one `Events` for each
step, and a `Pulse` at least once a second.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from types import GenericAlias
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter

from config import EngineSettings
from interface import errors
from interface.engine import Counters, ModelInfo, Tally, Tokenized
from interface.events import Event
from interface.requests import GenerationRequest, Prompt, SequenceId, TokenPrompt

PROTOCOL = 3
"""Both sides must have the same."""
HEADER = struct.Struct(">IBQ")

# Log probabilities may have bytes of half a character, which are not text, and the logarithm of 0, for which JSON has
# no number.
_AS_JSON = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants")


class Malformed(ValueError):
    """A body that cannot be read. `number` is the request's that it belongs to."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


# --- From a worker ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Hello:
    """The first message. `settings` must be equal to the settings of the engine's process."""

    protocol: int
    settings: dict[str, Any]
    departed: Tally
    """The counts of workers that have ended, for an engine that was started again and does not have them."""


@dataclass(slots=True)
class Submit:
    """Queue all of these sequences, or none. A prompt that several of them share is sent once."""

    prompts: list[Prompt]
    requests: list[tuple[int, GenerationRequest]]
    """The requests, each with the index of its prompt."""

    @classmethod
    def of(cls, requests: Sequence[GenerationRequest]) -> "Submit":
        prompts = {id(request.prompt): request.prompt for request in requests}
        places = {key: place for place, key in enumerate(prompts)}
        without_prompts = [(places[id(request.prompt)], replace(request, prompt=_ABSENT)) for request in requests]
        return cls(list(prompts.values()), without_prompts)

    def to_requests(self) -> list[GenerationRequest]:
        return [replace(request, prompt=self.prompts[place]) for place, request in self.requests]


_ABSENT = TokenPrompt(())


@dataclass(slots=True)
class Abort:
    sequence_id: SequenceId


@dataclass(slots=True)
class Tokenize:
    prompt: Prompt


@dataclass(slots=True)
class Detokenize:
    token_ids: list[int]


@dataclass(slots=True)
class Keep:
    """Pieces that belong together, by their names, for all workers to find; see `interface.kept.Kept.put`."""

    pieces: dict[str, bytes]
    beside: str | None = None


@dataclass(slots=True)
class Recall:
    """Find a piece."""

    name: str


@dataclass(slots=True)
class Find:
    """Find all pieces whose names begin so."""

    beginning: str


@dataclass(slots=True)
class Drop:
    """Forget a piece, and all that are kept with it."""

    name: str


@dataclass(slots=True)
class Counted:
    """All that this worker has counted since it started."""

    tally: Tally


# --- From the engine ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Welcome:
    info: ModelInfo
    engine: str
    """A name that is different for each process of the engine."""


@dataclass(slots=True)
class Refused:
    """An error that the worker raises. `error` names a class of `interface.errors`, or of Python."""

    error: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, error: Exception) -> "Refused":
        known = next((kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__), None)
        return cls((known or type(error)).__name__, str(error), vars(error) if known else {})

    def to_error(self) -> Exception:
        kind = getattr(errors, self.error, None)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            return RuntimeError(f"{self.error} in the engine's process: {self.message}")
        error = kind.__new__(kind, self.message)  # without __init__, which may make the message of other arguments
        vars(error).update(self.details)
        return error


@dataclass(slots=True)
class Accepted:
    prompt_tokens: list[int]


@dataclass(slots=True)
class TokenIds:
    tokenized: Tokenized


@dataclass(slots=True)
class Text:
    text: str


@dataclass(slots=True)
class Piece:
    """The answer to a `Recall`; None if the piece is not kept."""

    piece: bytes | None


@dataclass(slots=True)
class Pieces:
    """The answer to a `Find`, by their names and in their order."""

    pieces: dict[str, bytes]


@dataclass(slots=True)
class Done:
    """The answer to a `Keep` or a `Drop`: whether anything has changed."""

    has_changed: bool


@dataclass(slots=True)
class Events:
    """The events of one step, for all the sequences of one worker."""

    events: list[tuple[SequenceId, Annotated[Event, Field(union_mode="left_to_right")]]]


@dataclass(slots=True)
class Pulse:
    """How busy the engine is."""

    counters: Counters


@dataclass(slots=True)
class Totals:
    """The counts of the other workers; `departed` is the part of those that have ended."""

    others: Tally
    departed: Tally


@dataclass(slots=True)
class Outage:
    """The reason why the engine cannot be reached from its own process; None once it can."""

    reason: str | None


@dataclass(slots=True)
class Farewell:
    """The last message: the reason why the engine ends."""

    reason: str


Message = (
    Hello
    | Submit
    | Abort
    | Tokenize
    | Detokenize
    | Keep
    | Recall
    | Find
    | Drop
    | Counted
    | Welcome
    | Refused
    | Accepted
    | TokenIds
    | Text
    | Piece
    | Pieces
    | Done
    | Events
    | Pulse
    | Totals
    | Outage
    | Farewell
)
_KINDS: tuple[type[Message], ...] = Message.__args__


def _adapter(kind: type[Message]) -> TypeAdapter[tuple[Message]]:
    """Reads and writes a list of one message: pydantic applies the settings to nested types only from such a type."""
    form: Any = GenericAlias(tuple, (kind,))
    return TypeAdapter(form, config=_AS_JSON)


_ADAPTERS = [_adapter(kind) for kind in _KINDS]
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}


def common_settings(config: EngineSettings) -> dict[str, Any]:
    """The settings that the engine's process and its workers must have in common, without secrets."""
    secret = {setting.name for setting in fields(config) if not setting.repr}
    shared = {name: value for name, value in config.of_engine.items() if name not in secret}
    settings: dict[str, Any] = json.loads(json.dumps(shared))
    return settings


def pack(message: Message, number: int = 0) -> bytes:
    kind = _NUMBERS[type(message)]
    body = _ADAPTERS[kind].dump_json((message,))
    return HEADER.pack(len(body), kind, number) + body


def unpack(kind: int, number: int, body: bytes | bytearray) -> Message:
    """Raises Malformed."""
    try:
        return _ADAPTERS[kind].validate_json(body)[0]
    except (ValueError, IndexError) as error:
        reason = str(error).replace("\n", " ")
        raise Malformed(f"a message of kind {kind} and {len(body)} bytes cannot be read: {reason}", number) from None
