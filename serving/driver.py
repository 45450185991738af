"""The driver of the two ASGI doors: it has one engine, and the generations that are open on it.

The engine is a service that pushes its events (`interface.engine.EngineService`); the driver hands each one to its
generation. Everything here belongs to the event loop's thread.

Invariants:
    - However a request ends, its sequences are aborted unless they had finished.
    - Every open generation gets exactly one terminal event, even if the engine dies or the server ends.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

import anyio

from backends.load import load_service
from backends.threads import in_daemon_thread, load_in_daemon_thread
from config import Config
from interface.calls import Call, InBackground, Recall
from interface.engine import EngineService, Lexicon, SharedEngine, StepEvents, Tally
from interface.errors import EngineUnavailable, LoadError, check_room
from interface.events import Event, Failed, Logprobs, PromptEcho, Token
from interface.kept import Kept
from interface.requests import GenerationRequest
from interface.vitals import Vitals
from serving import process
from serving.base_driver import BaseDriver
from serving.blocking_lexicon import BlockingLexicon
from serving.exchanges import Exchanges, current_exchange
from serving.following import Following
from serving.generation import Generation
from serving.kept import KeptByEngine, KeptForOne, KeptHere, without_blocking
from serving.open_generations import OpenGenerations
from serving.shutdown import Shutdown
from serving.status import EngineStatus
from serving.supervised import check_workers

log = logging.getLogger("engine")

SMALL_BODY = 16 * 1024
"""Bytes up to which a body is parsed on the loop: that takes less time than a hop to a thread."""
SHORT_ANSWER = 1024
"""Tokens, their alternatives counted too, up to which a whole answer is made on the loop. 100,000 take some seconds."""
ASKERS = 4
"""Threads for questions about the model. A question holds its thread while the engine tokenizes for it."""
ASK_EVERY = 0.25
"""Seconds between two questions whether a call in the background is still wanted."""
WELCOME_LIMIT = 1.0
"""Seconds that a worker's start waits for an engine in another process: enough for one that has loaded its model."""

Result = TypeVar("Result")


class Driver(BaseDriver[EngineService]):
    """One engine and the generations that are open on it. `running()` is its lifespan; `status` is its health."""

    def __init__(self, config: Config, load: Callable[[Config], EngineService] = load_service) -> None:
        if load is load_service and config.socket is None:
            check_workers(loads_a_model=config.backend_url is None)
        super().__init__(config, EngineStatus(config, "stopped: the server has not run the lifespan protocol"))
        self._load = load
        self.exchanges = Exchanges(config)
        self._shared: SharedEngine | None = None
        """The engine, if other processes use it too."""
        self._open = OpenGenerations()
        self._shutdown = Shutdown(config, self._status, self._open, self.exchanges, self._fail_all)
        self._load_is_over = anyio.Event()
        self._parsing = anyio.CapacityLimiter(1)
        self._answering = anyio.CapacityLimiter(ASKERS)
        self._asking = anyio.CapacityLimiter(ASKERS)
        self._looking = anyio.CapacityLimiter(ASKERS)  # for what is kept: must not wait for questions about the model

    def vitals(self) -> Vitals:
        return self._vitals(self._open.cache_tokens, None if self._shared is None else self._shared.others())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the engine and deliver its events until the context ends. Entering does not wait for the load."""
        _check_loop()
        self._status.begin()  # here and not on the thread that loads, which may begin later than the first request
        self.exchanges.set_up_server()
        signalled, again = asyncio.Event(), asyncio.Event()
        if self.config.socket is not None:
            process.end_with_parent()
        self._shutdown.begin()
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._watched, self._load_and_start)
                tasks.start_soon(self._watched, self._shutdown.drain_when, signalled)
                tasks.start_soon(self._watched, self._shutdown.hurry_when, again)
                tasks.start_soon(self._watched, self.exchanges.watch)
                with process.signals_set(signalled, again):
                    if self.config.socket is not None:
                        await self._wait_for_running_engine()
                    yield
                self._shutdown.refuse_all()
                tasks.cancel_scope.cancel()
        finally:
            engine, self._engine = self._engine, None
            if engine is not None:
                await engine.close()
            self._shutdown.finish()

    @property
    def kept(self) -> Kept:
        """What is kept for the client of the current request. It finds nothing that was kept for another key."""
        exchange = current_exchange.get()
        if exchange is None:
            return self._kept
        if self._shared is None:
            return KeptForOne(KeptHere(self._kept, SMALL_BODY), exchange.key)
        return KeptForOne(KeptByEngine(self._shared, asyncio.get_running_loop(), exchange), exchange.key)

    async def parse(self, parse: Callable[[], Result], size: int) -> Result:
        """Call `parse`, on a thread if the body is large, or what it refers to. `size` is the body's, in bytes."""
        if size > SMALL_BODY:
            return await in_daemon_thread(parse, self._parsing)
        return await without_blocking(parse, self._parsing)

    async def begin(self, call: Call, request_id: str) -> Generation:
        """Begin a call: queue its sequences, or follow what another request writes. Raises what `submit` raises.

        A call in the background goes on without its client. A `Recall` needs no engine, but at the server's end it is
        waited for as the others are. The door has dropped the request's body.
        """
        if (exchange := current_exchange.get()) is not None:
            exchange.drop_body()
        if isinstance(call, Recall):
            following = Following(call, request_id, self.config, self._open.remove, self._looking)
            self._open.add(following)
            return following
        listener = call if isinstance(call, InBackground) else None
        return await self.submit(call.requests, request_id, listener)

    async def submit(
        self, requests: Sequence[GenerationRequest], request_id: str, listener: InBackground | None = None
    ) -> Generation:
        """Queue an HTTP request's sequences. Call `run` on what this returns, with no await in between.

        With a `listener` they go on without their client.

        Raises:
            RequestError: a request does not fit the model, `PromptTooLong` for example.
            QueueFull: too many are running and waiting already.
            EngineUnavailable: the engine is loading, has failed, or is shutting down.
        """
        engine = self._available_engine()
        capacity = self.config.max_streams + self.config.max_waiting
        check_room(len(requests), len(self._open), capacity)  # before the tokenizing, which takes long
        generation = Generation(requests, request_id, self.config, self._on_close, listener)
        if (exchange := current_exchange.get()) is not None:
            exchange.log = generation.log
        self._open.add(generation)
        try:
            generation.log.prompt_lengths = await engine.submit(requests)
            self._available_engine()  # it may have failed, or the server begun to shut down, in between
        except BaseException as error:
            self.forget(generation)
            if isinstance(error, EngineUnavailable):
                self._available_engine()  # raises the reason, if the driver knows a better one
            raise
        if listener is not None:
            if exchange is not None:
                exchange.goes_on_until = generation.over
            self._tasks.start_soon(self._watched, self._abandon_unwanted, generation, listener)
        return generation

    async def answer(self, answer: Callable[[Sequence[Event]], Result], events: Sequence[Event]) -> Result:
        """Make a whole answer of its events: on a thread if it is long, so that other streams go on.

        With what is kept in another process it is made on the loop, as a thread would have to wait for that.
        """
        if self._shared is None and _tokens_shown(events) > SHORT_ANSWER:
            return await in_daemon_thread(partial(answer, events), self._answering)
        return answer(events)

    async def ask(self, question: Callable[[Lexicon], Result]) -> Result:
        """Answer a question about the model or its tokens, or about what is kept, off the loop.

        Raises:
            RequestError: the question does not fit the model.
            EngineUnavailable: see `submit`. A question about what is kept needs no engine.
        """
        lexicon = BlockingLexicon(self._available_engine, asyncio.get_running_loop())
        return await in_daemon_thread(partial(question, lexicon), self._asking)

    def forget(self, generation: Generation) -> None:
        """Remove a generation, and abort its sequences that have not ended."""
        self._open.remove(generation)
        self._abort(generation)

    # --- The engine -------------------------------------------------------------------------------------------------

    async def _wait_for_running_engine(self) -> None:
        """Wait a moment for an engine that runs already, so that no request meets a worker without an engine."""
        with anyio.move_on_after(WELCOME_LIMIT):
            await self._load_is_over.wait()

    async def _load_and_start(self) -> None:
        """Load an engine off the loop, and start it; one behind another server may prove unusable only then."""
        try:
            engine = await load_in_daemon_thread(lambda: self._status.load(self._load))
            if engine is not None:
                await engine.start(self._deliver, self._on_failure, self._on_outage)
        except LoadError as error:
            self._status.fail_to_load(error)
            engine = None
        if engine is None:
            self._load_is_over.set()
            self._shutdown.after_failed_load()
            return
        self._engine = engine
        if isinstance(engine, SharedEngine):
            self._shared = engine
            engine.share(lambda: Tally(self.metrics.counts(), self._open.cache_tokens))
        self._status.accept()
        self._load_is_over.set()

    def _deliver(self, events: StepEvents) -> None:
        """Hand a step's events to their generations."""
        for sequence_id, event in events:
            if generation := self._open.of(sequence_id):
                try:
                    generation.put(sequence_id, event)
                except Exception as error:  # it ends this request, and no other
                    log.exception("An event could not be delivered")
                    self._abort(generation)
                    generation.fail(Failed(f"{type(error).__name__}: {error}", "engine_error"))
        try:
            self.metrics.step(events)
        except Exception:  # a fault in the metrics must not end requests
            log.exception("A step could not be counted")

    def _on_failure(self, reason: str) -> None:
        """End every open request with an error, and the process if `ENGINE_ON_FAILURE` says so."""
        log.critical("The engine has failed for good: %s", reason)
        self._status.fail(f"engine failed: {reason}")
        self._fail_all(Failed(reason, "engine_error"))
        self._shutdown.end_process(process.FAILED)

    def _on_outage(self, reason: str | None) -> None:
        """End every open request with an error: the engine is gone for now. Without a reason, take requests again."""
        self._status.interrupt(reason)
        if reason is None:
            log.info("The engine is back")
        else:
            log.error("The engine cannot be reached: %s", reason)
            self._fail_all(Failed(f"engine lost: {reason}", "engine_error"))

    def _on_close(self, generation: Generation) -> None:
        """Remove a generation whose request is over, and count it."""
        self.forget(generation)
        try:
            self.metrics.generation(generation.log)
        except Exception:  # a fault in the metrics must not end a request
            log.exception("A request could not be counted")

    async def _abandon_unwanted(self, generation: Generation, listener: InBackground) -> None:
        """End a call in the background once it is not wanted any more."""
        while generation in self._open:
            await anyio.sleep(ASK_EVERY)
            with suppress(EngineUnavailable):  # it then ends as all others do
                if not await without_blocking(listener.is_wanted, self._looking):
                    generation.abandon()

    async def _watched(self, work: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Run a background task. If it raises, the service has failed."""
        try:
            await work(*arguments)
        except Exception as error:
            log.exception("A background task has died")
            self._on_failure(f"{type(error).__name__}: {error}")

    def _abort(self, generation: Generation) -> None:
        if self._engine is not None:
            for sequence_id in generation.open_sequences:
                self._engine.abort(sequence_id)

    def _fail_all(self, failed: Failed) -> None:
        for generation in self._open:
            self._abort(generation)
            generation.fail(failed)


def _check_loop() -> None:
    """Refuse any event loop but asyncio's, which the engine's thread calls (`call_soon_threadsafe`)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError("Expected a server on asyncio, got another loop; start hypercorn with -k asyncio") from None


def _tokens_shown(events: Sequence[Event]) -> int:
    """How many tokens an answer may show, alternatives included. Each of many events counts as one."""
    if len(events) > SHORT_ANSWER:
        return len(events)
    return sum(_tokens_of(event) for event in events)


def _tokens_of(event: Event) -> int:
    match event:
        case PromptEcho():
            return sum(1 + len(token.top) for token in event.tokens)
        case Token(logprobs=Logprobs(top=top)):
            return 1 + len(top)
    return 1
