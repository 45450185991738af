"""What is kept, as one request sees it: in this process or in the engine's, and each client's own.

Reading what is large, or in another process, would block the event loop: there it raises `MustWait`, and
`without_blocking` asks again on a thread.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import anyio

from backends.threads import in_daemon_thread
from interface.engine import SharedEngine
from interface.errors import EngineUnavailable
from interface.kept import Kept
from serving.exchanges import Exchange

log = logging.getLogger("engine")

Found = TypeVar("Found")


class MustWait(Exception):
    """The event loop must not wait for the answer, or read it: ask again on a thread."""


async def without_blocking(work: Callable[[], Found], limiter: anyio.CapacityLimiter) -> Found:
    """Call what may read what is kept: on the event loop, or on a thread if it must wait.

    Raises:
        EngineUnavailable: it is kept in another process, which cannot be reached.
    """
    with suppress(MustWait):
        return work()
    return await in_daemon_thread(work, limiter)


class KeptHere:
    """What is kept in this process. The event loop may read some bytes of it for a request.

    Args:
        most_bytes: how many these are.
    """

    def __init__(self, kept: Kept, most_bytes: int) -> None:
        self._kept = kept
        self._room = most_bytes

    def put(self, pieces: Mapping[str, bytes], beside: str | None = None) -> None:
        self._kept.put(pieces, beside)

    def get(self, name: str) -> bytes | None:
        """Raises MustWait."""
        piece = self._kept.get(name)
        self._count(0 if piece is None else len(piece))
        return piece

    def find(self, beginning: str) -> Mapping[str, bytes]:
        """Raises MustWait."""
        found = self._kept.find(beginning)
        self._count(sum(map(len, found.values())))
        return found

    def drop(self, name: str) -> bool:
        return self._kept.drop(name)

    def _count(self, size: int) -> None:
        self._room -= size
        if self._room < 0 and _is_on_a_loop():
            raise MustWait


class KeptByEngine:
    """What is kept in the engine's process, for all workers. All methods but `put` wait for it, so on a thread.

    `put` does so on the event loop, too. There it does not wait, but the gate sends nothing more of the request's
    answer until what was put has arrived: a client that has heard of a response finds it in any worker.
    """

    def __init__(self, engine: SharedEngine, loop: asyncio.AbstractEventLoop, exchange: Exchange) -> None:
        self._engine = engine
        self._loop = loop
        self._exchange = exchange

    def put(self, pieces: Mapping[str, bytes], beside: str | None = None) -> None:
        """Raises EngineUnavailable, if it waits."""
        if _is_on_a_loop():
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
        if _is_on_a_loop():
            raise MustWait
        return asyncio.run_coroutine_threadsafe(ask(*arguments), self._loop).result()


class KeptForOne:
    """What is kept for the holder of one API key, under names that begin with what identifies the key."""

    def __init__(self, kept: Kept, key: str) -> None:
        self._kept = kept
        self._key = key

    def put(self, pieces: Mapping[str, bytes], beside: str | None = None) -> None:
        own = {self._own(name): piece for name, piece in pieces.items()}
        self._kept.put(own, None if beside is None else self._own(beside))

    def get(self, name: str) -> bytes | None:
        return self._kept.get(self._own(name))

    def find(self, beginning: str) -> Mapping[str, bytes]:
        found = self._kept.find(self._own(beginning))
        return {name.removeprefix(self._own("")): piece for name, piece in found.items()}

    def drop(self, name: str) -> bool:
        return self._kept.drop(self._own(name))

    def _own(self, name: str) -> str:
        return f"{self._key} {name}"


def _is_on_a_loop() -> bool:
    """Whether the caller runs on an event loop, which others wait for."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
