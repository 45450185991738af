"""Brings the engine's events to callers that block: what `driver.py` is for the two ASGI doors, without an event loop.

There is no worker thread. Each request's thread pulls: it steps the engine, or waits while another request's thread
does. So the engine goes no faster than its clients read, and nobody is there to do anything between two pulls.

Invariants:
    - However a request ends, `close` aborts it unless it had finished.
    - Every open generation gets exactly one terminal event, even if the engine dies.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from config import Config
from inference.request import (
    Counters,
    EngineFailed,
    EngineUnavailable,
    EngineVerbs,
    Event,
    Failed,
    Finished,
    GenerationRequest,
    LoadError,
    RequestId,
    Token,
)
from inference.turns import Turns
from logs import set_up_logging

log = logging.getLogger("engine")
access_log = logging.getLogger("engine.access")


def load_engine(config: Config) -> EngineVerbs:
    """Load the real engine. Importing it takes seconds, so that happens here, with the model."""
    from engine import Engine

    return Engine.load(config)


class Generation:
    """One request on its way: the events that come for it, and the end of it."""

    def __init__(self, driver: "Driver", request_id: str, prompt_tokens: int) -> None:
        self.request_id = request_id
        self.number: RequestId | None = None
        self._driver = driver
        self._events: deque[Event] = deque()
        self._prompt_tokens = prompt_tokens
        self._completion_tokens = 0
        self._end: Finished | Failed | None = None
        self._opened_at = time.perf_counter()
        self._first_token_at: float | None = None
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
        self._driver.forget(self, abort=self._end is None)
        first_token = self._first_token_at
        access_log.info(
            "generation request_id=%s prompt_tokens=%d completion_tokens=%d time_to_first_token_ms=%s finish_reason=%s",
            self.request_id,
            self._prompt_tokens,
            self._completion_tokens,
            "-" if first_token is None else f"{1e3 * (first_token - self._opened_at):.1f}",
            self._finish_reason(),
        )

    def take(self, events: Sequence[tuple[RequestId, Event]]) -> None:
        """The engine's sink; on whatever thread steps."""
        for _, event in events:
            self.put(event)

    def put(self, event: Event) -> None:
        """Take an event; what comes after the terminal one is dropped."""
        if self._end is not None or self._is_closed:
            return
        if isinstance(event, Token):
            self._completion_tokens += 1
            if self._first_token_at is None:
                self._first_token_at = time.perf_counter()
        else:
            self._end = event
        self._events.append(event)

    def _finish_reason(self) -> str:
        match self._end:
            case Finished():
                return self._end.finish_reason
            case Failed():
                return self._end.kind
            case None:
                return "abort"


class Driver:
    """One engine and the generations that are open on it; any thread may call any method."""

    def __init__(self, config: Config, load: Callable[[Config], EngineVerbs] = load_engine) -> None:
        self.config = config
        self.status = "loading"
        self._load_engine = load
        self._engine: EngineVerbs | None = None
        self._turns = Turns(self._step)
        self._lock = threading.Lock()
        self._open: set[Generation] = set()
        self._is_started = False

    @property
    def model(self) -> str:
        """The model's name, without the folders above it."""
        return Path(self.config.model).name if Path(self.config.model).is_dir() else self.config.model

    def counters(self) -> Counters:
        return Counters(0, 0, 0) if self._engine is None else self._engine.counters()

    def start(self) -> None:
        """Begin to load the engine, and do not wait for it; a second call does nothing."""
        with self._lock:
            if self._is_started:
                return
            self._is_started = True
        set_up_logging()
        threading.Thread(target=self._load, name="load", daemon=True).start()

    def submit(self, request: GenerationRequest, request_id: str) -> Generation:
        """Tokenize and queue a request. Whoever calls this must `close` what it returns.

        Raises:
            PromptTooLong: it does not fit the context.
            QueueFull: too many are running and waiting already.
            EngineUnavailable: the engine is loading or has failed.
        """
        if self._engine is None or self.status != "ok":
            raise EngineUnavailable(f"The engine is not available: {self.status}")
        encoded = self._engine.encode(request)
        generation = Generation(self, request_id, len(encoded.prompt_ids))
        with self._lock:
            generation.number = self._engine.submit(encoded, generation.take)
            self._open.add(generation)
        return generation

    def wait_for(self, has_news: Callable[[], bool]) -> bool:
        """Whether there is news before the next heartbeat is due; steps the engine if nobody else does."""
        return self._turns.wait_for(has_news, self.config.heartbeat)

    def forget(self, generation: Generation, abort: bool) -> None:
        """Take a generation off the list; with `abort`, off the engine too, by a step if it takes one."""
        with self._lock:
            self._open.discard(generation)
        if abort and self._engine is not None and generation.number is not None:
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
            self.status = f"engine failed: {reason}"
            for generation in self._open:
                generation.put(Failed(reason, "engine_error"))

    def _load(self) -> None:
        log.info("Loading %s …", self.model)
        began = time.perf_counter()
        try:
            self._engine = self._load_engine(self.config)
        except Exception as error:
            self.status = f"failed to load: {error}"
            is_users_mistake = isinstance(error, LoadError)
            log.error("The model could not be loaded: %s", error, exc_info=None if is_users_mistake else error)
            return
        self.status = "ok"
        log.info("%s is ready after %.1f s", self.model, time.perf_counter() - began)
