"""One request in flight on the event loop: its events, its heartbeats, and a client that leaves or does not read.

Invariants:
    - However a request ends, its sequences are aborted unless they had finished.
    - `events` ends with exactly one terminal event of the whole request.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

from config import ClientSettings
from interface.calls import InBackground
from interface.events import Event, Failed, Finished
from interface.requests import GenerationRequest, SequenceId
from serving.mailbox import Mailbox

BURST = 32
"""Events after which a stream lets the loop run other tasks: `send` usually does not wait."""
MIN_SLEEP = 0.001
"""Seconds. A timer that is due while its stream is busy would spin without it."""

Result = TypeVar("Result")


class Generation(Mailbox):
    """One HTTP request in flight, on the event loop.

    `on_close` is called with it once the request is over, to abort the sequences that have not ended. With a `listener`
    the request is over when its last event has come, and not when its client has left.
    """

    def __init__(
        self,
        requests: Sequence[GenerationRequest],
        request_id: str,
        config: ClientSettings,
        on_close: Callable[["Generation"], None],
        listener: InBackground | None = None,
    ) -> None:
        super().__init__(requests, request_id, config.heartbeat)
        self._listener = listener
        self._has_client = True
        self.over: asyncio.Future[None] | None = None
        """Done when the request is over, if it has a listener."""
        if listener is not None:
            self.over = asyncio.get_running_loop().create_future()
        self.sequence_ids = [request.sequence_id for request in requests]
        self._config = config
        self._on_close = on_close
        self._waiter: asyncio.Future[None] | None = None
        self._scope = anyio.CancelScope()
        self._last_taken_at = time.perf_counter()

    async def events(self) -> AsyncIterator[Event | None]:
        """Yield each event as it comes, and None after each `heartbeat` seconds without one.

        The last one is the `Finished` of the last sequence, or the first `Failed`.
        """
        taken = 0
        while True:
            while self._events:
                event = self._events.popleft()
                self._last_taken_at = time.perf_counter()
                yield event
                if event is not None and event is self.log.end:
                    return
                taken += 1
                if taken % BURST == 0:
                    await anyio.lowlevel.checkpoint()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    async def result(self) -> list[Event]:
        """Return all the events, once the last one has come; none, and at once, if a listener takes them."""
        if self._listener is not None:
            return []
        return [event async for event in self.events() if event is not None]

    async def run(
        self, work: Callable[[], Awaitable[Result]], disconnected: Callable[[], Awaitable[None]]
    ) -> Result | None:
        """Run `work`, cancelled on client disconnect; abort the request either way, unless it has a listener.

        `disconnected` returns when the client has left.

        Returns:
            What `work` returned, or None if it was cancelled.
        """
        result: Result | None = None
        try:
            async with anyio.create_task_group() as tasks:
                self._scope = tasks.cancel_scope
                tasks.start_soon(self._cancel_after, disconnected)
                tasks.start_soon(self._cancel_after, self._stall)
                tasks.start_soon(self._send_heartbeats)
                result = await work()
                tasks.cancel_scope.cancel()
        finally:
            # No await here: nothing may come between the end of the work and the abort.
            self._has_client = False
            if self._listener is None or self._has_ended:
                self.close()
            self._events.clear()
        return result

    def put(self, sequence_id: SequenceId, event: Event) -> None:
        """Take an event from the engine; events after the end are dropped."""
        if self._add(sequence_id, event):
            self._tell(event)

    def fail(self, failed: Failed) -> None:
        """End the request with an error that does not come from the engine."""
        if self._end(failed):
            self._tell(failed)

    def abandon(self) -> None:
        """End a request that its listener does not want any more, and with it the stream of its client, unless it has
        ended.
        """
        self._listener = None
        log = self.log
        end = Finished("abort", log.prompt_tokens, log.completion_tokens, 0.0, 0.0, 1e3 * log.seconds)
        if self._end(end):
            self._tell(end)

    def _tell(self, event: Event) -> None:
        """Tell the listener of an event, and then the reader if there is one."""
        if self._listener is not None:
            try:
                self._listener.take(event)
            except Exception:
                self._listener = None  # the driver fails the request, and that must not raise again
                raise
        if self._has_client:
            self._wake()
            return
        self._events.clear()
        if self._has_ended:
            self.close()

    def cancel(self) -> None:
        """Stop the work at once, even if it is stuck in a send."""
        self._scope.cancel()

    def close(self) -> None:
        """End the request, and write its log line."""
        self._on_close(self)
        self.log.write()
        if self.over is not None and not self.over.done():
            self.over.set_result(None)

    def _wake(self) -> None:
        if self._is_waiting:
            assert self._waiter is not None
            self._last_taken_at = time.perf_counter()  # there was nothing to take until now
            self._waiter.set_result(None)

    @property
    def _is_waiting(self) -> bool:
        """Whether `events` waits for an event, and not for its reader."""
        return self._waiter is not None and not self._waiter.done()

    async def _send_heartbeats(self) -> None:
        """Add a None to the mailbox after each `heartbeat` seconds of silence. (A timer per token would cost more.)"""
        while True:
            silence = time.perf_counter() - self._last_taken_at
            if silence >= self.heartbeat and self._is_waiting:
                self._events.append(None)
                self._wake()
                silence = 0
            await anyio.sleep(max(self.heartbeat - silence, MIN_SLEEP))

    async def _cancel_after(self, condition: Callable[[], Awaitable[None]]) -> None:
        await condition()
        self._scope.cancel()

    async def _stall(self) -> None:
        """Return when an event has been unread for `stall` seconds: writing to a full socket has no timeout."""
        while (left := self._config.stall - self._seconds_unread()) > 0:  # noqa: ASYNC110
            await anyio.sleep(max(left, MIN_SLEEP))

    def _seconds_unread(self) -> float:
        return 0.0 if self._is_waiting else time.perf_counter() - self._last_taken_at
