"""What is kept in the engine's process, as one request of a worker sees it: all workers find the same."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import anyio

from backends.threads import in_daemon_thread
from interface.engine import SharedEngine
from interface.errors import EngineUnavailable
from serving.exchanges import Exchange

log = logging.getLogger("engine")

Found = TypeVar("Found")


class MustWait(Exception):
    """The event loop must not wait for the answer, or read it: ask again on a thread."""


async def asked(question: Callable[[], Found], limiter: anyio.CapacityLimiter) -> Found:
    """Ask something about what is kept: on the event loop, or on a thread if that must wait.

    Raises:
        EngineUnavailable: it is kept in another process, which cannot be reached.
    """
    with suppress(MustWait):
        return question()
    return await in_daemon_thread(question, limiter)


class KeptByEngine:
    """See `interface.kept.Kept`. All methods but `put` wait for the engine's process, so they are called on a thread.

    `put` does so on the event loop, too. There it does not wait, but the gate sends nothing more of the request's
    answer until what was put has arrived: a client that has heard of a response finds it in any worker.
    """

    def __init__(self, engine: SharedEngine, loop: asyncio.AbstractEventLoop, exchange: Exchange) -> None:
        self._engine = engine
        self._loop = loop
        self._exchange = exchange

    def put(self, pieces: Mapping[str, bytes], beside: str | None = None) -> None:
        """Raises EngineUnavailable, if it waits."""
        if is_on_a_loop():
            before, self._exchange.pending = self._exchange.pending, None
            self._exchange.pending = self._loop.create_task(self._put(pieces, beside, before))
        else:
            self._wait_for(self._engine.keep, pieces, beside)

    async def _put(self, pieces: Mapping[str, bytes], beside: str | None, before: Awaitable[None] | None) -> None:
        if before is not None:
            await before
        try:
            await self._engine.keep(pieces, beside)
        except (EngineUnavailable, ValueError) as error:
            log.warning("A response is not kept: %s", error)

    def get(self, name: str) -> bytes | None:
        """Raises MustWait, EngineUnavailable."""
        return self._wait_for(self._engine.recall, name)

    def find(self, beginning: str) -> Mapping[str, bytes]:
        """Raises MustWait, EngineUnavailable."""
        return self._wait_for(self._engine.find, beginning)

    def drop(self, name: str) -> bool:
        """Raises MustWait, EngineUnavailable."""
        return self._wait_for(self._engine.drop, name)

    def _wait_for(self, ask: Callable[..., Coroutine[Any, Any, Found]], *arguments: object) -> Found:
        if is_on_a_loop():
            raise MustWait
        return asyncio.run_coroutine_threadsafe(ask(*arguments), self._loop).result()


def is_on_a_loop() -> bool:
    """Whether the caller runs on an event loop, which others wait for."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
