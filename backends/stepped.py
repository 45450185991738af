"""The service of an engine in this process: one worker thread steps it, and its events are pushed to the event loop.

The thread steps while there is work, and calls the loop once for the events of a step, of all sequences; or not at all,
if the loop has yet to run the last call. So a step costs at most one thread hop whatever the number of streams, the
loop never waits for the model, and an idle engine costs nothing: no thread runs, no timer ticks. The next step lets the
loop send first, and waits for no client.

Invariant: everything here belongs to the event loop's thread, except `_work`, `_hand_over` and `_call_loop`.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import anyio
from anyio import to_thread

from backends.threads import in_daemon_thread
from interface.engine import Counters, EngineProtocol, ModelInfo, Sink, StepEvents, Tokenized
from interface.errors import EngineFailed, EngineUnavailable, NoThreadToStart
from interface.events import Failed
from interface.requests import ChatPrompt, GenerationRequest, Prompt, SequenceId, TextPrompt, TokenPrompt

log = logging.getLogger("engine")

ENCODERS = 2
"""Threads that tokenize prompts. More would only take cores from the model."""
WATCH_INTERVAL = 5.0
"""Seconds between two checks of how long the present step has taken."""
LARGE_PROMPT = 32 * 1024
"""Characters above which prompts are tokenized one at a time on a thread of their own, so that no others wait."""
LONG_STEP, HEAD_START = 0.002, 0.01
"""Seconds. After a step longer than LONG_STEP, the next one waits until the loop has passed the events on, for at most
HEAD_START. A step keeps all cores busy, so that the loop would get one only milliseconds later."""


class SteppedService:
    """Runs the steps of an `EngineProtocol` on a worker thread, through `anyio.to_thread`.

    Args:
        on_own_thread: calls a function on the thread that the engine computes on, if it has one, and returns when the
            function has. The engine then need not go there and back in every step.
    """

    def __init__(
        self,
        engine: EngineProtocol,
        step_limit: float = float("inf"),
        on_own_thread: Callable[[Callable[[], None]], None] = lambda work: work(),
    ) -> None:
        self._engine = engine
        self._step_limit = step_limit
        self._on_own_thread = on_own_thread
        self._step_began_at: float | None = None
        self._handed: deque[StepEvents] = deque()
        """The events of steps, on their way from the worker thread to the loop."""
        self._is_called = False
        """Whether the loop has been called, and has yet to take the events."""
        self._lost: Exception | None = None
        """The reason why events did not reach the loop, if that has happened: their streams would wait for ever."""
        self._steps = 0
        self._step_seconds = 0.0
        self._failure: str | None = None
        self._is_closed = False
        self._has_sent = threading.Event()  # the loop has passed on all that it was handed
        self._has_sent.set()

    async def start(
        self, on_events: Sink, on_failure: Callable[[str], None], on_outage: Callable[[str | None], None]
    ) -> None:
        """Raises LoadError if there is no thread to step on."""
        self._loop = asyncio.get_running_loop()
        self._on_events = on_events
        self._on_failure = on_failure
        self._step_limiter = anyio.CapacityLimiter(1)
        self._encode_limiter = anyio.CapacityLimiter(ENCODERS)
        self._large_limiter = anyio.CapacityLimiter(1)
        self._wakeup = anyio.Event()
        await self._hold_thread()
        self._driving = asyncio.create_task(self._drive(), name="drive the engine")
        self._driving.add_done_callback(self._on_driving_done)

    async def _hold_thread(self) -> None:
        """Have anyio start the thread of the steps, which it then keeps, so that a lack of threads shows at the start.

        Raises:
            LoadError: the system gives no more threads.
        """
        try:
            await to_thread.run_sync(_do_nothing, limiter=self._step_limiter)
        except RuntimeError as error:
            raise NoThreadToStart("run the model on", error) from error

    async def submit(self, requests: Sequence[GenerationRequest]) -> Sequence[int]:
        self._check_available()
        limiter = self._encode_limiter_of([request.prompt for request in requests])
        encoded = await in_daemon_thread(partial(self._engine.encode, requests), limiter)
        self._check_available()  # it may have failed or been closed during the tokenizing
        self._engine.submit(encoded, self._hand_over)
        self._wakeup.set()
        return [len(request.prompt_ids) for request in encoded]

    def abort(self, sequence_id: SequenceId) -> None:
        self._engine.abort(sequence_id)
        self._wakeup.set()

    def _encode_limiter_of(self, prompts: Sequence[Prompt]) -> anyio.CapacityLimiter:
        return self._large_limiter if _size(prompts) > LARGE_PROMPT else self._encode_limiter

    def counters(self) -> Counters:
        return replace(self._engine.counters(), steps=self._steps, step_seconds=self._step_seconds)

    @property
    def info(self) -> ModelInfo:
        return self._engine.info

    async def tokenize(self, prompt: Prompt) -> Tokenized:
        self._check_available()
        return await in_daemon_thread(partial(self._engine.tokenize, prompt), self._encode_limiter_of([prompt]))

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        self._check_available()
        return await in_daemon_thread(partial(self._engine.detokenize, token_ids), self._encode_limiter)

    async def close(self) -> None:
        """Wait for the step that is running, unless it is stuck; no other begins."""
        self._is_closed = True
        self._wakeup.set()
        if self._failure is None:
            await self._driving

    def _check_available(self) -> None:
        if self._failure is not None:
            raise EngineFailed(self._failure)
        if self._is_closed:
            raise EngineUnavailable("The engine is closed")

    async def _drive(self) -> None:
        """Step whenever there is work, until the engine fails or is closed."""
        while not self._is_closed:
            await self._wakeup.wait()
            self._wakeup = anyio.Event()
            try:
                await self._work_until_idle()
            except Exception as error:
                if not isinstance(error, EngineFailed):
                    log.exception("The engine raised outside its own step")
                self._fail(str(error) if isinstance(error, EngineFailed) else f"{type(error).__name__}: {error}")
                return

    def _fail(self, reason: str) -> None:
        """Take no more requests, and tell the driver, once."""
        if self._failure is None:
            self._failure = reason
            self._on_failure(reason)

    def _on_driving_done(self, driving: "asyncio.Task[None]") -> None:
        """Fail if the task that steps has ended before `close`."""
        if not self._is_closed and not driving.cancelled():  # cancelled by a loop that ends
            self._fail("the task that drives the engine has ended")

    async def _work_until_idle(self) -> None:
        """Hop to the worker thread once, for as long as there is work.

        (With a hop per step, the engine would wait for the loop between steps; `make bench-transport` compares.)
        """
        watching = asyncio.create_task(self._watch_steps(), name="watch the steps")
        try:
            await to_thread.run_sync(self._on_own_thread, self._work, limiter=self._step_limiter)
        finally:
            watching.cancel()

    async def _watch_steps(self) -> None:
        """Fail when a step takes longer than the limit: a device that hangs raises nothing.

        Each look counts as one interval. By the clock, a process that was stopped for long (Ctrl-Z, `docker pause`)
        would be in a step that hangs.
        """
        interval = min(self._step_limit / 4, WATCH_INTERVAL)
        watched, seconds = None, 0.0
        while True:
            await anyio.sleep(interval)
            is_same = self._step_began_at is not None and self._step_began_at == watched
            watched, seconds = self._step_began_at, seconds + interval if is_same else 0.0
            if seconds >= self._step_limit:
                self._fail(f"a step has taken longer than {self._step_limit:g} s (ENGINE_STEP_LIMIT)")

    def _work(self) -> None:
        """Step while there is work; on the worker thread."""
        has_work = True
        while has_work and not self._is_closed:
            self._step_began_at = began = time.perf_counter()
            try:
                has_work = self._engine.step()
            except (SystemExit, KeyboardInterrupt) as error:  # as they are, these would end the event loop
                raise RuntimeError(f"a step raised {error!r}") from error
            finally:
                self._step_began_at = None
            if self._lost is not None:
                raise RuntimeError(f"events did not reach the loop: {self._lost}") from self._lost
            took = time.perf_counter() - began
            self._steps += 1
            self._step_seconds += took
            if took > LONG_STEP:
                self._has_sent.wait(HEAD_START)

    def _hand_over(self, events: StepEvents) -> None:
        """Bring a step's events to the loop, without waiting for it; on the worker thread."""
        self._handed.append(events)
        if self._is_called or self._loop.is_closed():
            return
        self._is_called = True
        self._has_sent.clear()
        try:
            self._call_loop()
        except Exception as error:
            self._lost = error
            raise

    def _call_loop(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._take_handed)
        except Exception:
            log.exception("A step's events did not reach the loop; trying once more")
            self._loop.call_soon_threadsafe(self._take_handed)

    def _take_handed(self) -> None:
        """Deliver the events that have come since the loop was called."""
        self._is_called = False  # first: what comes from now on calls the loop again
        for _ in range(len(self._handed)):
            self._deliver(self._handed.popleft())
        self._loop.call_soon(self._has_sent.set)  # after the streams that were just woken

    def _deliver(self, events: StepEvents) -> None:
        try:
            self._on_events(events)
        except Exception as error:
            self._deliver_failure({sequence_id for sequence_id, _ in events}, error)

    def _deliver_failure(self, sequence_ids: set[SequenceId], error: Exception) -> None:
        """End the sequences whose events the driver could not take; fail for good if it cannot take that either."""
        log.error("A step's events could not be taken", exc_info=error)
        reason = f"{type(error).__name__}: {error}"
        for sequence_id in sequence_ids:
            self._engine.abort(sequence_id)
        try:
            self._on_events([(sequence_id, Failed(reason, "engine_error")) for sequence_id in sequence_ids])
        except Exception:
            self._fail(f"events could not be taken: {reason}")


def _do_nothing() -> None:
    pass


def _size(prompts: Sequence[Prompt]) -> int:
    """Return about how many characters there are to tokenize; the choices of one request share their prompt."""
    return sum(_characters(prompt) for prompt in {id(prompt): prompt for prompt in prompts}.values())


def _characters(prompt: Prompt) -> int:
    match prompt:
        case TextPrompt():
            return len(prompt.text)
        case TokenPrompt():
            return 0
        case ChatPrompt():
            return sum(len(str(message)) for message in prompt.messages)
