"""The two protocols of an engine: one that is stepped, and a service that a driver talks to.

An engine with `EngineProtocol` computes in this process, when its `step` is called. An `EngineService` pushes its
events to the driver, and its failure too, so an engine that dies while idle is noticed. `backends.stepped` makes a
service out of an engine that is stepped.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from interface.events import Event
from interface.requests import EncodedRequest, GenerationRequest, Prompt, SequenceId

StepEvents = Sequence[tuple[SequenceId, Event]]
"""The events of one step. Those of one sequence are in their order."""
Sink = Callable[[StepEvents], object]
"""Takes the events of one step, for all the sequences submitted with it, in one call."""


@dataclass(frozen=True, slots=True)
class Counters:
    """How busy an engine is: sequences in a slot, sequences waiting for one; and what it has done since it started."""

    running: int
    waiting: int
    generated_tokens: int
    steps: int = 0
    step_seconds: float = 0.0
    """The time of all steps together."""
    failed_steps: int = 0
    guessed_tokens: int = 0
    """Tokens that were computed on a guess (see `inference.scheduling.speculation`)."""
    true_guesses: int = 0
    """The guessed tokens that were right."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What one process has counted for its metrics. Those of several processes can be added."""

    counts: Mapping[str, float] = field(default_factory=dict)
    """Counts since the process started, by name."""
    cache_tokens: int = 0
    """Tokens that the process' sequences hold in the cache now."""

    def __add__(self, other: "Tally") -> "Tally":
        counts = {name: amount + other.counts.get(name, 0) for name, amount in self.counts.items()}
        return Tally({**other.counts, **counts}, self.cache_tokens + other.cache_tokens)

    def since(self, earlier: Mapping[str, float]) -> "Tally":
        """Return what was counted after `earlier`."""
        return Tally({name: amount - earlier.get(name, 0) for name, amount in self.counts.items()}, self.cache_tokens)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What clients may know about the model. `tokenizer` is the public part of its tokenizer's configuration."""

    context: int
    vocabulary: int
    tokenizer: Mapping[str, Any]
    sampling_defaults: Mapping[str, float] = field(default_factory=dict)
    """The model's own defaults for sampling parameters, from its generation config."""


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A prompt as token ids, with the text of each token."""

    token_ids: Sequence[int]
    tokens: Sequence[str]


class Lexicon(Protocol):
    """The part of an engine that tokenizes and describes the model, without generating. Any thread may call it."""

    @property
    def info(self) -> ModelInfo: ...

    def tokenize(self, prompt: Prompt) -> Tokenized:
        """Return a prompt's token ids, and the text of each. Raises RequestError."""

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids. Raises RequestError."""


class EngineProtocol(Lexicon, Protocol):
    """An engine that is stepped.

    Any thread may call any method, with one exception: only one thread at a time may call `step`.
    """

    def encode(self, requests: Sequence[GenerationRequest]) -> list[EncodedRequest]:
        """Render and tokenize prompts, compile grammars; touches no engine state.

        Requests that share a prompt object, as the choices of one HTTP request do, share the work.

        Raises:
            RequestError: the request does not fit this model. `PromptTooLong` is one of these.
        """

    def submit(self, requests: Sequence[EncodedRequest], sink: Sink) -> None:
        """Queue all of these sequences, or none, without waiting. Their events go to `sink`.

        Raises:
            TooManySequences: there never is room for all of them.
            QueueFull: there is not enough room for all of them just now.
            EngineFailed: the engine has failed for good.
        """

    def abort(self, sequence_id: SequenceId) -> None:
        """End a sequence at the next step, wherever it is; an unknown or ended one is left alone."""

    def step(self) -> bool:
        """Bring every running sequence at least one token further; return whether there is more to do.

        Raises:
            EngineFailed: the engine has failed for good. Every sequence has had its terminal event.
        """

    def counters(self) -> Counters: ...


class EngineService(Protocol):
    """An engine as a driver sees it. All methods and callbacks are called on the event loop's thread.

    Except for the callbacks of `start`, all arguments and results are plain data, so the engine may be in another
    process.
    """

    async def start(
        self, on_events: Sink, on_failure: Callable[[str], None], on_outage: Callable[[str | None], None]
    ) -> None:
        """Begin to work, and return as soon as requests are taken. Call once, before anything else.

        If this raises or is cancelled, nothing is left running, and `close` need not be called.

        Args:
            on_events: called with the events of a step, once for all the sequences.
            on_failure: called at most once, when the engine has failed for good. The receiver ends the sequences that
                are still open; no events follow.
            on_outage: called with a reason when the engine cannot be reached for now: the receiver ends the sequences
                that are open, and no events follow for them. Called with None when the engine is back.

        Raises:
            LoadError: the engine cannot be used; the message says why.
        """

    @property
    def info(self) -> ModelInfo:
        """The model; known once `start` has returned."""

    async def submit(self, requests: Sequence[GenerationRequest]) -> Sequence[int]:
        """Queue all of these sequences, or none; return how many tokens each prompt has.

        Events may arrive before this returns.

        Raises:
            RequestError: a request does not fit this model.
            QueueFull: there is not enough room for all of them.
            EngineUnavailable: the engine has failed or is closed.
        """

    def abort(self, sequence_id: SequenceId) -> None:
        """End a sequence as soon as possible; an unknown or ended one is left alone. Does not wait."""

    def counters(self) -> Counters:
        """The last known counters. Does not wait."""

    async def tokenize(self, prompt: Prompt) -> Tokenized:
        """Return a prompt's token ids, and the text of each. Raises RequestError, EngineUnavailable."""

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids. Raises RequestError, EngineUnavailable."""

    async def close(self) -> None:
        """Stop working and release everything; a second call does nothing."""


@runtime_checkable
class SharedEngine(EngineService, Protocol):
    """An engine that several processes use, so each has counted only a part of what its metrics should show."""

    def share(self, own: Callable[[], Tally]) -> None:
        """Call `own` now and then, and pass on what this process has counted. Call once, after `start`."""

    def others(self) -> Tally:
        """Return what the other processes have counted, as far as it is known. Does not wait."""

    async def keep(self, pieces: Mapping[str, bytes], beside: str | None = None) -> None:
        """Keep pieces of bytes, by their names, for all processes that use the engine; see `interface.kept`.

        Raises:
            EngineUnavailable: the engine's process cannot be reached.
            ValueError: they are larger together than a message may be.
        """

    async def recall(self, name: str) -> bytes | None:
        """Return a piece; None if it is not kept. Raises EngineUnavailable."""

    async def find(self, beginning: str) -> Mapping[str, bytes]:
        """Return all pieces whose names begin so, in their order. Raises EngineUnavailable."""

    async def drop(self, name: str) -> bool:
        """Forget a piece and all that are kept with it; return whether it was kept. Raises EngineUnavailable."""
