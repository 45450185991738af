"""Carries the engine's steps on a worker thread, and brings their events to the requests that wait on the loop.

One thread steps while there is work, and hands the events of a step, for all the streams, over to the event loop in
one call. So a step costs one hop whatever the number of streams, the loop never waits for the model, and an idle engine
costs nothing: no thread runs, no timer ticks. The next step lets the loop send first, and waits for no client.

Invariants:
    - However a request ends, it is aborted unless it had finished.
    - Every open generation gets exactly one terminal event, even if the engine dies or the server ends.
    - Everything here belongs to the event loop's thread, but for `_work` and `_hand_over`.
"""

import asyncio
import os
import signal
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any, TypeVar

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from config import Config
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

ENCODERS = 2
"""Threads that tokenize prompts. More would only take the cores from the model."""
BURST = 32
"""Events that one stream may take before the loop gets to do something else: `send` usually does not wait."""
LONG_STEP, HEAD_START = 0.002, 0.01
"""Seconds. After a step of at least the first, the next one waits until its events have been passed on, at most for the
second. A step that computes keeps every core busy: the loop would otherwise get one only milliseconds later."""
MIN_SLEEP = 0.001
"""Seconds; keeps a watch whose time has come, but whose stream is busy, from spinning."""

Result = TypeVar("Result")


class Generation:
    """One request on its way: the events that come for it, and the end of it."""

    def __init__(self, driver: "Driver", engine: EngineVerbs, number: RequestId, account: Account) -> None:
        self.number = number
        self.account = account
        self._driver = driver
        self._engine = engine
        self._config = driver.config
        self._events: deque[Event | None] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._scope = anyio.CancelScope()
        self._taken_at = time.perf_counter()

    async def events(self) -> AsyncIterator[Event | None]:
        """Each event as it comes, the last one terminal; None after each `heartbeat` seconds without one."""
        taken = 0
        while True:
            while self._events:
                event = self._events.popleft()
                self._taken_at = time.perf_counter()
                yield event
                if isinstance(event, Finished | Failed):
                    return
                taken += 1
                if taken % BURST == 0:
                    await anyio.lowlevel.checkpoint()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    async def result(self) -> tuple[list[Token], Finished | Failed]:
        """All the tokens, and how it ended."""
        tokens: list[Token] = []
        async for event in self.events():
            if isinstance(event, Token):
                tokens.append(event)
            elif event is not None:
                return tokens, event
        raise AssertionError("events() ends with a terminal event")

    async def run(self, work: Callable[[], Awaitable[Result]], gone: Callable[[], Awaitable[None]]) -> Result | None:
        """Do `work` until `gone` returns, which it does when the client has left; then end the request.

        Returns:
            What `work` returned, or None if it was cut short.
        """
        result: Result | None = None
        try:
            async with anyio.create_task_group() as tasks:
                self._scope = tasks.cancel_scope
                tasks.start_soon(self._cancel_after, gone)
                tasks.start_soon(self._cancel_after, self._stall)
                tasks.start_soon(self._beat)
                result = await work()
                tasks.cancel_scope.cancel()
        finally:
            # No await here: nothing may come between the end of the work and the abort.
            self._close()
        return result

    def put(self, event: Event) -> None:
        """Take an event from the engine; what comes after the terminal one is dropped."""
        if self.account.takes(event):
            self._pass_on(event)

    def fail(self, failed: Failed) -> None:
        """End the request for a reason of the service's own."""
        self._engine.abort(self.number)
        self.put(failed)

    def cut(self) -> None:
        """Stop the work at once, even if it is stuck in a send."""
        self._scope.cancel()

    def _pass_on(self, event: Event | None) -> None:
        self._events.append(event)
        if self._is_waiting:
            assert self._waiter is not None
            self._taken_at = time.perf_counter()  # the reader has had nothing to take until now
            self._waiter.set_result(None)

    @property
    def _is_waiting(self) -> bool:
        """Whether `events` waits for an event, and not for its reader."""
        return self._waiter is not None and not self._waiter.done()

    async def _beat(self) -> None:
        """Pass on a None whenever nothing has been for `heartbeat` seconds. (A timer per token would cost more.)"""
        while True:
            silence = time.perf_counter() - self._taken_at
            if silence >= self._config.heartbeat and self._is_waiting:
                self._pass_on(None)
                silence = 0
            await anyio.sleep(max(self._config.heartbeat - silence, MIN_SLEEP))

    async def _cancel_after(self, condition: Callable[[], Awaitable[None]]) -> None:
        await condition()
        self._scope.cancel()

    async def _stall(self) -> None:
        """Return when the client has not taken an event for `stall` seconds: a full socket has no timeout."""
        while self._is_waiting or time.perf_counter() - self._taken_at < self._config.stall:  # noqa: ASYNC110
            await anyio.sleep(self._config.stall)

    def _close(self) -> None:
        self._driver.forget(self)
        if self.account.end is None:
            self._engine.abort(self.number)
        self.account.log()


class Driver(Service):
    """One engine and the generations that are open on it. `running` is its life; `status` says how it is."""

    def __init__(self, config: Config, load: Callable[[Config], EngineVerbs] = load_engine) -> None:
        super().__init__(config, load, status="stopped: the server has not run the lifespan protocol")
        self._open: dict[RequestId, Generation] = {}
        self._wakeup = anyio.Event()
        self._none_is_open = anyio.Event()
        self._sent = threading.Event()  # the loop has passed on all that it was handed
        self._sent.set()
        self._stopping = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the engine and drive it until the context ends. Entering does not wait for the load."""
        self._loop = asyncio.get_running_loop()
        self._step_limiter = anyio.CapacityLimiter(1)
        self._encode_limiter = anyio.CapacityLimiter(ENCODERS)
        self._wakeup = anyio.Event()
        self._stopping = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._load_and_drive)
            with self._signals_heard(tasks):
                yield
            self._stopping = True
            self.refuse("shutting down")
            self._fail_all(Failed("The server is shutting down", "shutdown"))
            tasks.cancel_scope.cancel()
        self._engine = None

    async def submit(self, request: GenerationRequest, request_id: str) -> Generation:
        """Tokenize and queue a request. Call `run` on what this returns, with no await in between.

        Raises:
            PromptTooLong: it does not fit the context.
            QueueFull: too many are running and waiting already.
            EngineUnavailable: the engine is loading, has failed, or is ending.
        """
        encode = self.available_engine().encode
        encoded = await to_thread.run_sync(encode, request, limiter=self._encode_limiter)
        engine = self.available_engine()  # asked again: it may have failed or ended during the tokenizing
        number = engine.submit(encoded, self._hand_over)
        generation = Generation(self, engine, number, Account(request_id, len(encoded.prompt_ids)))
        self._open[number] = generation
        self._wakeup.set()
        return generation

    def forget(self, generation: Generation) -> None:
        self._open.pop(generation.number, None)
        if not self._open:
            self._none_is_open.set()

    # --- Driving --------------------------------------------------------------------------------------------------

    async def _load_and_drive(self) -> None:
        engine = await _in_daemon_thread(self.load)
        while engine is not None:
            await self._wakeup.wait()
            self._wakeup = anyio.Event()
            try:
                await self._step_until_idle(engine)
            except EngineFailed as error:
                self.refuse(f"engine failed: {error}")
                self._fail_all(Failed(str(error), "engine_error"))
                return

    async def _step_until_idle(self, engine: EngineVerbs) -> None:
        """One hop to the worker thread, which comes back when there is no more work.

        (A hop per step leaves the engine waiting for the loop between steps; `make bench-transport` compares.)
        """
        await to_thread.run_sync(self._work, engine, limiter=self._step_limiter)

    def _work(self, engine: EngineVerbs) -> None:
        """Step while there is work; on the worker thread."""
        try:
            has_work = True
            while has_work and not self._stopping:
                began = time.perf_counter()
                has_work = engine.step()
                if time.perf_counter() - began > LONG_STEP:
                    self._sent.wait(HEAD_START)
        except EngineFailed:
            raise
        except Exception as error:
            log.exception("The engine raised outside its own step")
            raise EngineFailed(f"{type(error).__name__}: {error}") from error

    def _hand_over(self, events: Sequence[tuple[RequestId, Event]]) -> None:
        """Bring a step's events to the loop, without waiting for it; on whatever thread steps."""
        if not self._loop.is_closed():
            self._sent.clear()
            self._loop.call_soon_threadsafe(self._deliver, events)

    def _deliver(self, events: Sequence[tuple[RequestId, Event]]) -> None:
        for number, event in events:
            if generation := self._open.get(number):
                generation.put(event)
        self._loop.call_soon(self._sent.set)  # after the streams that were just woken

    # --- Ending ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _signals_heard(self, tasks: TaskGroup) -> Iterator[None]:
        """Hear of Ctrl-C and SIGTERM as well as the server does.

        At a signal, uvicorn waits for open streams to end, and tells the application (lifespan.shutdown) only after
        that. Somebody has to end the streams, so we listen too, and pass each signal on.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_signal(number: int, frame: FrameType | None) -> None:
            self._loop.call_soon_threadsafe(tasks.start_soon, self._drain)
            handler = of_server[number]
            if callable(handler):
                handler(number, frame)
            elif handler == signal.SIG_DFL:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)

        of_server: dict[int, Any] = {
            number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in of_server.items():
                if signal.getsignal(number) is on_signal:
                    signal.signal(number, handler)

    async def _drain(self) -> None:
        """Give open streams `drain` seconds to finish; then tell them; then cut off those that do not take it."""
        self.refuse("shutting down")
        await self._until_none_is_open(self.config.drain)
        self._fail_all(Failed("The server is shutting down", "shutdown"))
        await self._until_none_is_open(1)
        for generation in list(self._open.values()):
            generation.cut()

    async def _until_none_is_open(self, seconds: float) -> None:
        self._none_is_open = anyio.Event()
        with anyio.move_on_after(seconds):
            if self._open:
                await self._none_is_open.wait()

    def _fail_all(self, failed: Failed) -> None:
        for generation in list(self._open.values()):
            generation.fail(failed)


async def _in_daemon_thread(function: Callable[[], Result]) -> Result:
    """Like `to_thread.run_sync`, but at exit nobody waits for it: Ctrl-C need not wait for a download."""
    outcome: Future[Result] = Future()
    outcome.set_running_or_notify_cancel()  # from here on a cancel stops only the waiting, not the thread

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="load", daemon=True).start()
    return await asyncio.wrap_future(outcome)
