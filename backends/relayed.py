"""The base of services whose engine is elsewhere: a task for each sequence passes its events on.

Everything belongs to the event loop's thread. The events of one iteration of the loop are delivered in one call.

Invariants:
    1. A sequence that was submitted ends in exactly one terminal event, or `on_failure` or `on_outage` ends it.
    2. An abort cancels the sequence's task, which closes the stream that it reads.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from config import EngineSettings
from interface.engine import Counters, ModelInfo, Sink, Tokenized
from interface.errors import EngineFailed, EngineUnavailable, QueueFull, RequestError, check_room
from interface.events import Event, Failed, Finished, FinishReason, Token
from interface.requests import GenerationRequest, Prompt, SequenceId

log = logging.getLogger("engine")

ADMISSION_LIMIT = 1.0
"""Seconds that `submit` waits for the engine to refuse a request. A later refusal is an error event in the stream."""


class EngineLost(Exception):
    """The engine did not finish an answer; the message says what happened."""


class Relay(Protocol):
    """One sequence that the engine computes."""

    @property
    def request(self) -> GenerationRequest: ...

    @property
    def prompt_tokens(self) -> int: ...

    def events(self) -> AsyncGenerator[Event | None, None]:
        """Send the request, and yield its events up to the terminal one. None means that the engine has accepted it.

        Raises:
            RequestError, QueueFull, EngineUnavailable: the engine has refused it.
            EngineLost: the engine is gone, or the connection to it.
        """

    def finish(self, reason: FinishReason) -> Finished:
        """Return the terminal event of the sequence if it ends now."""


@dataclass(eq=False)
class _OpenSequence:
    """A sequence that has not had its terminal event."""

    relay: Relay
    admission: "asyncio.Future[None]"
    task: "asyncio.Task[None]" = field(init=False)
    tokens: int = 0
    """Events with text so far; at least as many tokens."""


class RelayedService(ABC):
    """An engine service whose engine is elsewhere. A subclass implements the connection to it."""

    def __init__(self, config: EngineSettings) -> None:
        self._capacity = config.max_streams + config.max_waiting
        self._open: dict[SequenceId, _OpenSequence] = {}
        self._ending: set[asyncio.Task[None]] = set()  # cancelled, and not done yet
        self._events: list[tuple[SequenceId, Event]] = []
        self._generated_tokens = 0
        self._failure: str | None = None
        self._outage: str | None = None
        self._is_closed = False

    # --- Implemented by a subclass ------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def info(self) -> ModelInfo: ...

    @abstractmethod
    async def _connect(self) -> None:
        """Wait until the engine takes requests. Raises LoadError."""

    @abstractmethod
    async def _watch(self) -> None:
        """Watch the engine while the service is open; call `_fail`, or `_lose` and `_recover`, as its state changes."""

    @abstractmethod
    async def _relays(self, requests: Sequence[GenerationRequest]) -> Sequence[Relay]:
        """Prepare these requests. Raises RequestError for what the engine cannot do."""

    @abstractmethod
    def _check_engine(self) -> None:
        """Find out soon whether the engine is gone: an answer of it has broken off. Does not wait."""

    @abstractmethod
    async def _release(self) -> None:
        """Release everything; may be called at any time after the service was made."""

    @abstractmethod
    async def tokenize(self, prompt: Prompt) -> Tokenized: ...

    @abstractmethod
    async def detokenize(self, token_ids: Sequence[int]) -> str: ...

    # --- The engine service -------------------------------------------------------------------------------------------

    async def start(
        self, on_events: Sink, on_failure: Callable[[str], None], on_outage: Callable[[str | None], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_events, self._on_failure, self._on_outage = on_events, on_failure, on_outage
        try:
            await self._connect()
        except BaseException:
            await self._release()
            raise
        self._watching = asyncio.create_task(self._watch(), name="watch the engine")
        self._watching.add_done_callback(self._on_watching_done)

    async def submit(self, requests: Sequence[GenerationRequest]) -> Sequence[int]:
        self._check_available()
        with self._asking():
            relays = await self._relays(requests)
        self._check_available()  # it may have been lost during the tokenizing
        check_room(len(relays), len(self._open), self._capacity)
        opened = [self._carry(relay) for relay in relays]
        try:
            await asyncio.wait([sequence.admission for sequence in opened], timeout=ADMISSION_LIMIT)
            for sequence in opened:
                if sequence.admission.done():
                    sequence.admission.result()  # raises what it was refused with
        except BaseException:
            for sequence in opened:
                self._drop(sequence)
            raise
        finally:
            for sequence in opened:
                sequence.admission.cancel()  # from now on a refusal is an event
        return [relay.prompt_tokens for relay in relays]

    def abort(self, sequence_id: SequenceId) -> None:
        if (sequence := self._open.get(sequence_id)) is not None:
            self._put(sequence, sequence.relay.finish("abort"))
            self._drop(sequence)

    def counters(self) -> Counters:
        running = sum(sequence.tokens > 0 for sequence in self._open.values())
        return Counters(running, len(self._open) - running, self._generated_tokens)

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._watching.cancel()
        self._drop_all()
        await asyncio.gather(self._watching, *self._ending, return_exceptions=True)
        await self._release()

    # --- For a subclass -----------------------------------------------------------------------------------------------

    def _fail(self, reason: str) -> None:
        """Fail for good; only the first reason counts."""
        if self._failure is None and not self._is_closed:
            self._failure = reason
            self._drop_all()
            self._on_failure(reason)

    def _lose(self, reason: str) -> None:
        """Begin an outage: the engine is gone for now."""
        self._outage = reason
        self._drop_all()
        self._on_outage(reason)

    def _recover(self) -> None:
        """End an outage: the engine is back."""
        self._outage = None
        self._on_outage(None)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Within this, turn EngineLost into EngineUnavailable, after checking the engine."""
        try:
            yield
        except EngineLost as error:
            self._check_engine()
            raise EngineUnavailable(str(error)) from error

    # --- Open sequences -----------------------------------------------------------------------------------------------

    def _check_available(self) -> None:
        if self._failure is not None:
            raise EngineFailed(self._failure)
        if self._is_closed or self._outage is not None:
            raise EngineUnavailable(self._outage or "The engine is closed")

    def _carry(self, relay: Relay) -> _OpenSequence:
        sequence = _OpenSequence(relay, self._loop.create_future())
        self._open[relay.request.sequence_id] = sequence
        sequence.task = asyncio.create_task(self._pass_on(sequence), name=f"sequence {relay.request.sequence_id}")
        return sequence

    async def _pass_on(self, sequence: _OpenSequence) -> None:
        try:
            async with aclosing(sequence.relay.events()) as events:
                async for event in events:
                    if not sequence.admission.done():
                        sequence.admission.set_result(None)
                    if event is not None:
                        self._put(sequence, event)
            if sequence.relay.request.sequence_id in self._open:
                raise EngineLost("the answer broke off before its end")
        except EngineLost as error:
            self._refuse(sequence, EngineUnavailable(str(error)))
            self._check_engine()
        except (RequestError, QueueFull, EngineUnavailable) as error:
            self._refuse(sequence, error)
        except Exception as error:
            log.exception("Sequence %d failed", sequence.relay.request.sequence_id)
            self._refuse(sequence, EngineUnavailable(f"{type(error).__name__}: {error}"))

    def _refuse(self, sequence: _OpenSequence, error: Exception) -> None:
        """End a sequence with an error: for `submit` to raise if that is still waiting, or else as its last event."""
        if sequence.admission.done():
            self._put(sequence, Failed(str(error), "engine_error", sequence.relay.request.index))
        else:
            sequence.admission.set_exception(error)
            self._forget(sequence)

    def _put(self, sequence: _OpenSequence, event: Event) -> None:
        """Add an event to those that are delivered in this iteration of the loop."""
        sequence_id = sequence.relay.request.sequence_id
        if sequence_id not in self._open:
            return
        if isinstance(event, Token):
            sequence.tokens += 1
            self._generated_tokens += 1
        elif isinstance(event, Finished | Failed):
            if isinstance(event, Finished):  # a server that tells texts may tell several tokens in one
                self._generated_tokens += event.completion_tokens - sequence.tokens
            self._forget(sequence)
        if not self._events:
            self._loop.call_soon(self._hand_over)
        self._events.append((sequence_id, event))

    def _hand_over(self) -> None:
        events, self._events = self._events, []
        if events:
            self._on_events(events)

    def _forget(self, sequence: _OpenSequence) -> None:
        self._open.pop(sequence.relay.request.sequence_id, None)

    def _drop(self, sequence: _OpenSequence) -> None:
        """End a sequence without an event."""
        self._forget(sequence)
        if not sequence.task.done():
            sequence.task.cancel()
            self._ending.add(sequence.task)
            sequence.task.add_done_callback(self._ending.discard)

    def _drop_all(self) -> None:
        self._hand_over()
        for sequence in list(self._open.values()):
            if not sequence.admission.done():
                sequence.admission.set_exception(
                    EngineUnavailable(self._failure or self._outage or "The engine is closed")
                )
            self._drop(sequence)

    def _on_watching_done(self, watching: "asyncio.Task[None]") -> None:
        if not watching.cancelled() and (error := watching.exception()) is not None:
            self._fail(f"{type(error).__name__}: {error}")
