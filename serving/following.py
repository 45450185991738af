"""The stream of a client that takes up what another request writes, or has written. No engine is asked for it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import anyio

from config import ClientSettings
from interface.calls import LOOK_EVERY, Recall
from interface.errors import EngineUnavailable
from interface.events import Failed
from serving.generation import Generation
from serving.kept import without_blocking


class Following(Generation):
    """A generation without sequences. Its events are silences: at each one, the call's writer sends what was found."""

    def __init__(
        self,
        call: Recall,
        request_id: str,
        config: ClientSettings,
        on_close: Callable[[Generation], None],
        looking: anyio.CapacityLimiter,
    ) -> None:
        super().__init__((), request_id, config, on_close)
        self._call = call
        self._looking = looking

    async def events(self) -> AsyncIterator[None]:
        """Yield None whenever there is news, and after `heartbeat` seconds without any, until all has come."""
        may_go_on, silent_since = True, time.monotonic()
        while may_go_on:
            self._waiter = asyncio.get_running_loop().create_future()  # waits for news, and not for the reader
            may_go_on = await self._look()
            if may_go_on and not self._call.has_news:
                await anyio.sleep(LOOK_EVERY)
            self._wake()
            if self._call.has_news or time.monotonic() - silent_since >= self.heartbeat:
                yield None
                silent_since = time.monotonic()

    async def _look(self) -> bool:
        """Look for news; return whether there may be more. If the engine that keeps them is gone, cut it off."""
        try:
            return await without_blocking(self._call.look, self._looking)
        except EngineUnavailable:
            self.cancel()
            return True

    def fail(self, failed: Failed) -> None:
        """Nothing: the request that writes has failed too, and the event that it then writes is found and sent."""

    def close(self) -> None:
        """End the request. There is no generation to log."""
        self._on_close(self)
