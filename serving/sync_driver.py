"""Brings the engine's events to callers that block: what `driver.py` is for the two ASGI doors, without an event loop.

There is no worker thread. Each request's thread pulls: it steps the engine, or waits while another request's thread
does. So the engine goes no faster than its clients read, and nobody is there to do anything between two pulls.

Invariants:
    - However a request ends, `close` aborts it unless it had finished.
    - Every open generation gets exactly one terminal event, even if the engine dies.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from config import Config
from inference.turns import Turns
from interface.request import (
    EngineFailed,
    EngineVerbs,
    Event,
    Failed,
    Finished,
    GenerationRequest,
    RequestId,
    Token,
)
from serving.status import Account, Service, load_engine, log


class Generation:
    """One request on its way: the events that come for it, and the end of it."""

    def __init__(self, driver: "Driver", account: Account) -> None:
        self.number: RequestId | None = None
        self.account = account
        self._driver = driver
        self._events: deque[Event] = deque()
        self._is_closed = False

    def events(self) -> Iterator[Event | None]:
        """Each event as it comes, the last one terminal; None after each `heartbeat` seconds without one."""
        while True:
            if not self._driver.wait_for(lambda: bool(self._events)):
                yield None
                continue
            event = self._events.popleft()
            yield event
            if not isinstance(event, Token):
                return

    def result(self) -> tuple[list[Token], Finished | Failed]:
        """All the tokens, and how it ended."""
        tokens: list[Token] = []
        for event in self.events():
            if isinstance(event, Token):
                tokens.append(event)
            elif event is not None:
                return tokens, event
        raise AssertionError("events() ends with a terminal event")

    def close(self) -> None:
        """End the request; a second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._driver.forget(self)
        self.account.log()

    def take(self, events: Sequence[tuple[RequestId, Event]]) -> None:
        """The engine's sink; on whatever thread steps."""
        for _, event in events:
            self.put(event)

    def put(self, event: Event) -> None:
        """Take an event; what comes after the terminal one is dropped."""
        if not self._is_closed and self.account.takes(event):
            self._events.append(event)


class Driver(Service):
    """One engine and the generations that are open on it; any thread may call any method."""

    def __init__(self, config: Config, load: Callable[[Config], EngineVerbs] = load_engine) -> None:
        super().__init__(config, load, status="loading")
        self._turns = Turns(self._step)
        self._lock = threading.Lock()
        self._open: set[Generation] = set()
        self._is_started = False

    def start(self) -> None:
        """Begin to load the engine, and do not wait for it; a second call does nothing."""
        with self._lock:
            if self._is_started:
                return
            self._is_started = True
        threading.Thread(target=self.load, name="load", daemon=True).start()

    def submit(self, request: GenerationRequest, request_id: str) -> Generation:
        """Tokenize and queue a request. Whoever calls this must `close` what it returns.

        Raises:
            PromptTooLong, UnusablePrompt: it does not fit the context, or the model has no tokens for it.
            QueueFull: too many are running and waiting already.
            EngineUnavailable: the engine is loading or has failed.
        """
        engine = self.available_engine()
        encoded = engine.encode(request)
        generation = Generation(self, Account(request_id, len(encoded.prompt_ids)))
        with self._lock:
            generation.number = engine.submit(encoded, generation.take)
            self._open.add(generation)
        return generation

    def wait_for(self, has_news: Callable[[], bool]) -> bool:
        """Whether there is news before the next heartbeat is due; steps the engine if nobody else does."""
        return self._turns.wait_for(has_news, self.config.heartbeat)

    def forget(self, generation: Generation) -> None:
        """Take a generation off the list; unless it has ended, off the engine too, by a step if it takes one."""
        with self._lock:
            self._open.discard(generation)
        if generation.account.end is None and self._engine is not None and generation.number is not None:
            self._engine.abort(generation.number)
            self._turns.step()

    def _step(self) -> None:
        assert self._engine is not None
        try:
            self._engine.step()
        except Exception as error:
            if not isinstance(error, EngineFailed):
                log.exception("The engine raised outside its own step")
            self._fail(str(error) if isinstance(error, EngineFailed) else f"{type(error).__name__}: {error}")

    def _fail(self, reason: str) -> None:
        """Take no more requests, and tell every one that is open."""
        with self._lock:
            self.refuse(f"engine failed: {reason}")
            for generation in self._open:
                generation.put(Failed(reason, "engine_error"))
