"""What an endpoint is: how one path is asked, and how it answers.

An endpoint parses a body into a `Call` (something to generate) or a `Question` (something to look up). A call says
which sequences it wants, and how their events become an answer: as a whole, or through a `Writer`, as bytes for each
event. Nothing here does I/O, so all three doors use the same ones. The table of all endpoints is `contract.ENDPOINTS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from contract.answers import Answer
from interface.engine import Lexicon
from interface.events import Event
from interface.requests import GenerationRequest


class Writer(Protocol):
    """Turns the events of one answer into bytes, as they come. An empty result means that there is nothing to send."""

    def start(self) -> bytes:
        """What is sent before the first event."""

    def event(self, event: Event) -> bytes:
        """What is sent for an event."""

    def silence(self) -> bytes:
        """What is sent when nothing has happened for a while, so that no proxy gives the connection up."""

    def end(self) -> bytes:
        """What is sent after the last event."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """What an endpoint gets from a door."""

    body: bytes = b""
    rest: str = ""
    """What follows the endpoint's path, for endpoints with `takes_rest`."""
    models: Sequence[str] = ()
    """The names under which the model is served; the first one is the default."""
    fingerprint: str | None = None
    """What version and weights answer."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What is known once the engine has taken a call."""

    request_id: str
    prompt_tokens: Sequence[int]
    """Of each sequence."""


class Call(Protocol):
    """Something to generate."""

    @property
    def requests(self) -> Sequence[GenerationRequest]: ...

    @property
    def stream(self) -> bool: ...

    def writer(self, accepted: Accepted) -> Writer:
        """The stream's writer."""

    def answer(self, accepted: Accepted, events: Sequence[Event]) -> Answer:
        """The whole answer, made of all the events; the last one is `Failed` or the `Finished` of the last sequence."""


@dataclass(frozen=True, slots=True)
class Question:
    """Something to look up. `ask` runs off the event loop and may raise a `RequestError`."""

    ask: Callable[[Lexicon], Answer]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path of the service. The fields from `summary` on are for the OpenAPI document."""

    path: str
    parse: Callable[[Incoming], Call | Question]
    """Raises `Refusal`."""
    summary: str
    method: str = "POST"
    takes_rest: bool = False
    """Whether the path goes on: `/v1/models/` and a name, which may hold slashes."""
    request: Any = None
    """The type of the body: a pydantic model or a dataclass."""
    answer: Any = None
    """The type of a whole answer."""
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
