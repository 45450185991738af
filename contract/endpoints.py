"""The interface of an endpoint: how a request to one path is parsed and answered.

An endpoint parses a body into a `Call` (something to generate) or a `Question` (something to look up). A call has the
sequences to generate, and turns their events into an answer: a whole one, or, through a `Writer`, bytes for each event.
Nothing here does I/O, so all three doors share the endpoints. The table of all of them is `contract.ENDPOINTS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from contract.answers import Answer
from interface.engine import Lexicon
from interface.events import Event
from interface.kept import Kept, NothingKept
from interface.requests import GenerationRequest

BODY_REFUSALS = {413: "The body is too large.", 415: "The body's Content-Type is not JSON."}
QUESTION_REFUSALS = {500: "The engine has failed for good.", 503: "There is no engine for now."}
CALL_REFUSALS = BODY_REFUSALS | {
    500: "The engine failed during the request, or for good.",
    503: "There is no engine, or no place in its queue, for now.",
}
MODEL_REFUSALS = {400: "The body is not valid, or the prompt does not fit the context.", 404: "No such model."}
"""The refusals that many endpoints have, for the OpenAPI document."""


class Writer(Protocol):
    """Turns the events of one answer into bytes, as they come. An empty result means that there is nothing to send."""

    def start(self) -> bytes:
        """Return what is sent before the first event."""

    def event(self, event: Event) -> bytes:
        """Return what is sent for an event."""

    def silence(self) -> bytes:
        """Return what is sent when there was no event for a while, so that no proxy closes the connection."""

    def end(self) -> bytes:
        """Return what is sent after the last event."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request as a door passes it to an endpoint."""

    body: bytes = b""
    path: str = ""
    query: bytes = b""
    """The URL's query, as it came."""
    models: Sequence[str] = ()
    """The names under which the model is served; the first one is the default."""
    fingerprint: str | None = None
    """Names the engine and weights that answer (`Config.fingerprint`)."""
    kept: Kept = field(default_factory=NothingKept)
    """What earlier requests of the same client have kept."""
    name: str = ""
    item: str = ""
    """What stands for `{name}` and for `{item}` in the endpoint's path; `contract.routing.parse` fills them in."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a call needs to know for its answer, once the engine has accepted it."""

    request_id: str
    prompt_tokens: Sequence[int]
    """The length of each sequence's prompt."""


class Call(Protocol):
    """Something to generate."""

    @property
    def requests(self) -> Sequence[GenerationRequest]: ...

    @property
    def stream(self) -> bool: ...

    def writer(self, accepted: Accepted) -> Writer:
        """Return the writer of the stream."""

    def answer(self, accepted: Accepted, events: Sequence[Event]) -> Answer:
        """Return the whole answer. The last event is `Failed`, or the `Finished` of the last sequence."""


@dataclass(frozen=True, slots=True)
class Question:
    """Something to look up. `ask` runs off the event loop and may raise a `RequestError`."""

    ask: Callable[[Lexicon], Answer]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path of the service. The fields from `summary` on, but `method`, are for the OpenAPI document."""

    path: str
    """May have names in it: `{name}` and `{item}` are one segment of the path, `{name:path}` may contain slashes."""
    parse: Callable[[Incoming], Call | Question]
    """Raises `Refusal`."""
    summary: str
    method: str = "POST"
    request: Any = None
    """The type of the body: a pydantic model or a dataclass; None if no body is read."""
    query: Any = None
    """The type of the query: a pydantic model."""
    answer: Any = None
    """The type of a whole answer; None if there are only refusals."""
    stream: tuple[Any, ...] = ()
    """The types of a stream's events; empty if the endpoint does not stream."""
    stream_description: str = ""
    stream_example: str = ""
    example: dict[str, Any] = field(default_factory=dict)
    refusals: dict[int, str] = field(default_factory=dict)
    """The statuses of its refusals, and what each means."""
    problems: Any = None
    """The type of the body of a 422."""
    error: Any = None
    """The type of the body of every other refusal."""

    @property
    def openapi_path(self) -> str:
        """The path as OpenAPI writes it."""
        return self.path.replace(":path}", "}")
