"""The driver of the WSGI door: it brings the engine's events to callers that block, without an event loop.

There is no worker thread. Each request's thread pulls: it steps the engine, or waits while another request's thread
does. So the engine goes no faster than its clients read, and nothing can happen between two pulls.

Invariants:
    - However a request ends, `close` aborts its sequences unless they had finished.
    - Every open generation gets exactly one terminal event, even if the engine dies.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from backends.own_engine import load_engine
from config import PREFIX, Config
from inference.turns import Turns
from interface.calls import LOOK_EVERY, Call, InBackground, Recall
from interface.engine import EngineProtocol, Lexicon, ModelInfo, StepEvents, Tokenized
from interface.errors import EngineFailed, LoadError, NoThreadToStart
from interface.events import Event, Failed
from interface.kept import Kept
from interface.requests import GenerationRequest, Prompt
from interface.vitals import Vitals
from serving.base_driver import BaseDriver
from serving.mailbox import Mailbox
from serving.request_log import RequestLog
from serving.status import EngineStatus

log = logging.getLogger("engine")

MIDDLEWARE_SETTINGS = ("api_keys", "hosts", "allow_origins", "client_requests", "client_tokens")
"""The settings of the middleware around the ASGI doors. This door has no middleware, so to accept them would leave it
open."""

CLIENT_LEFT = Failed("The client has left, and this door generates nothing without one", "engine_error")

Result = TypeVar("Result")


def _load_here(config: Config) -> EngineProtocol:
    if config.socket is not None:
        raise LoadError("Expected no ENGINE_SOCKET: this door steps the engine itself, in its own process.")
    for name in MIDDLEWARE_SETTINGS:
        if getattr(config, name):
            raise LoadError(
                f"Expected no {PREFIX}{name.upper()}: this door checks no keys, hosts, origins or quotas. Serve app.py "
                "or raw_asgi.py, which do, or unset it and leave that to a proxy."
            )
    return load_engine(config)


class Generation(Mailbox):
    """One HTTP request in flight, for the thread that answers it."""

    def __init__(
        self,
        driver: "Driver",
        requests: Sequence[GenerationRequest],
        request_id: str,
        listener: InBackground | None = None,
    ) -> None:
        super().__init__(requests, request_id, driver.config.heartbeat)
        self._driver = driver
        self._listener = listener
        self._is_closed = False
        self._taking = threading.Lock()
        """Held from an event's arrival until the listener has it: another thread reads the mailbox meanwhile."""

    def events(self) -> Iterator[Event | None]:
        """Yield each event as it comes, and None after each `heartbeat` seconds without one.

        The last one is the `Finished` of the last sequence, or the first `Failed`.
        """
        while True:
            if not self._driver.wait_for(lambda: bool(self._events)):
                yield None
                continue
            with self._taking:
                event = self._events.popleft()
            yield event
            if event is self.log.end:
                return

    def result(self) -> list[Event]:
        """Return all the events, once the last one has come."""
        return [event for event in self.events() if event is not None]

    def close(self) -> None:
        """End the request; a second call does nothing."""
        if self._is_closed:
            return
        if self._listener is not None and not self._has_ended:
            self.fail(CLIENT_LEFT)
        self._is_closed = True
        self._driver.forget(self)
        self._driver.count_generation(self.log)
        self.log.write()

    def take(self, events: StepEvents) -> None:
        """The engine's sink; called on the stepping thread."""
        self._driver.count_step(events)
        with self._taking:
            if not self._is_closed:
                for sequence_id, event in events:
                    if self._add(sequence_id, event) and self._listener is not None:
                        self._listener.take(event)

    def fail(self, failed: Failed) -> None:
        with self._taking:
            if not self._is_closed and self._end(failed) and self._listener is not None:
                self._listener.take(failed)


class Following(Generation):
    """What another request has written, for its client: a generation without sequences, whose events are silences."""

    def __init__(self, driver: "Driver", call: Recall, request_id: str) -> None:
        super().__init__(driver, (), request_id)
        self._call = call

    def events(self) -> Iterator[None]:
        """Yield None whenever there is news, and after `heartbeat` seconds without any, until all has come."""
        may_go_on, silent_since = True, time.monotonic()
        while may_go_on:
            may_go_on = self._call.look()
            if may_go_on and not self._call.has_news:
                time.sleep(LOOK_EVERY)  # another request's thread steps the engine
            if self._call.has_news or time.monotonic() - silent_since >= self.heartbeat:
                yield None
                silent_since = time.monotonic()

    def close(self) -> None:
        """There is nothing to abort, and no generation to log."""


class _LazyLexicon:
    """The `Lexicon` of the engine that `available_engine` returns, which is called only when something is asked."""

    def __init__(self, available_engine: Callable[[], EngineProtocol]) -> None:
        self._available_engine = available_engine

    @property
    def info(self) -> ModelInfo:
        return self._available_engine().info

    def tokenize(self, prompt: Prompt) -> Tokenized:
        return self._available_engine().tokenize(prompt)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        return self._available_engine().detokenize(token_ids)


class Driver(BaseDriver[EngineProtocol]):
    """One engine and the generations that are open on it; any thread may call any method."""

    def __init__(self, config: Config, load: Callable[[Config], EngineProtocol] | None = None) -> None:
        super().__init__(config, EngineStatus(config, "loading"))
        self._load = load or _load_here
        self._turns = Turns(self._step)
        self._lock = threading.Lock()
        self._counting = threading.Lock()  # many threads count, some while they hold other locks
        self._open: set[Generation] = set()
        self._is_started = False

    def vitals(self) -> Vitals:
        with self._lock:
            cache_tokens = sum(generation.cache_tokens for generation in self._open)
        return self._vitals(cache_tokens)

    @property
    def kept(self) -> Kept:
        """What is kept for all clients: this door knows no keys."""
        return self._kept

    def start(self) -> None:
        """Begin to load the engine, and do not wait for it; a second call does nothing."""
        with self._lock:
            if self._is_started:
                return
            self._is_started = True
        self._status.begin()
        try:
            threading.Thread(target=self._load_engine, name="load", daemon=True).start()
        except RuntimeError as error:
            self._status.fail_to_load(NoThreadToStart("load the model on", error))

    def begin(self, call: Call, request_id: str) -> Generation:
        """Begin a call: queue its sequences, or follow what another request writes. Raises what `submit` raises.

        A call in the background needs its client here, as nothing else pulls its events. A `Recall` needs no engine.
        """
        if isinstance(call, Recall):
            return Following(self, call, request_id)
        return self.submit(call.requests, request_id, call if isinstance(call, InBackground) else None)

    def submit(
        self, requests: Sequence[GenerationRequest], request_id: str, listener: InBackground | None = None
    ) -> Generation:
        """Tokenize and queue an HTTP request's sequences. Call `close` on what this returns.

        Raises:
            RequestError: a request does not fit the model, `PromptTooLong` for example.
            QueueFull: too many are running and waiting already.
            EngineUnavailable: the engine is loading or has failed.
        """
        engine = self._available_engine()
        encoded = engine.encode(requests)
        generation = Generation(self, requests, request_id, listener)
        generation.log.prompt_lengths = [len(request.prompt_ids) for request in encoded]
        with self._lock:
            engine.submit(encoded, generation.take)
            self._open.add(generation)
        return generation

    def ask(self, question: Callable[[Lexicon], Result]) -> Result:
        """Answer a question about the model or its tokens; see `submit` for what it raises.

        A question about what is kept needs no engine.
        """
        return question(_LazyLexicon(self._available_engine))

    def wait_for(self, has_news: Callable[[], bool]) -> bool:
        """Return whether there is news before the next heartbeat is due; step the engine if no other thread does."""
        return self._turns.wait_for(has_news, self.config.heartbeat)

    def forget(self, generation: Generation) -> None:
        """Remove a generation and abort its sequences that have not ended, which takes a step."""
        with self._lock:
            self._open.discard(generation)
        if generation.open_sequences and self._engine is not None:
            for sequence_id in generation.open_sequences:
                self._engine.abort(sequence_id)
            self._turns.step()

    def count_step(self, events: StepEvents) -> None:
        with self._counting:
            self.metrics.step(events)

    def count_generation(self, log: RequestLog) -> None:
        with self._counting:
            self.metrics.generation(log)

    def _load_engine(self) -> None:
        self._engine = self._status.load(self._load)
        if self._engine is not None:
            self._status.accept()

    def _step(self) -> None:
        assert self._engine is not None
        try:
            self._engine.step()
        except EngineFailed as error:
            self._fail(str(error))
        except Exception as error:
            log.exception("The engine raised outside its own step")
            self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, reason: str) -> None:
        """Take no more requests, and end every open generation with an error."""
        with self._lock:
            self._status.fail(f"engine failed: {reason}")
            for generation in self._open:
                generation.fail(Failed(reason, "engine_error"))
