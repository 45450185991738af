"""Ends a server with open streams: at a signal, at a second one, or because its engine has failed.

At a signal the open streams get `drain` seconds to finish. Those that are still open get an error event, and are then
cut off. A process whose engine cannot be loaded, or has failed for good, ends itself, unless ENGINE_ON_FAILURE=stay.
"""

import asyncio
import logging
from collections.abc import Callable

import anyio

from config import STARTUP_FAILURE, Config
from interface.events import Failed
from serving import process
from serving.exchanges import Exchanges
from serving.open_generations import OpenGenerations
from serving.status import EngineStatus
from serving.supervised import is_worker

log = logging.getLogger("engine")

SHUTDOWN = Failed("The server is shutting down", "shutdown")
CUT_OFF = 0.5
"""Seconds after the error event until an open request is cut off."""
SLACK = 3.0
"""Seconds beyond `drain` after which a process that ends itself exits, whatever its server is still doing."""


class Shutdown:
    """The shutdown of one driver. `fail_all` ends its open generations with an event."""

    def __init__(
        self,
        config: Config,
        status: EngineStatus,
        generations: OpenGenerations,
        exchanges: Exchanges,
        fail_all: Callable[[Failed], None],
    ) -> None:
        self._config = config
        self._status = status
        self._generations = generations
        self._exchanges = exchanges
        self._fail_all = fail_all
        self._may_end_process = False
        self._exit_status: int | None = None

    def begin(self) -> None:
        """Find out whether this may end the process. Call it on the server's thread."""
        self._may_end_process = self._config.on_failure == "exit" and process.owns_the_process()

    async def drain_when(self, signalled: asyncio.Event) -> None:
        """At a signal, give open streams `drain` seconds to finish, then an error event, then cut them off."""
        await signalled.wait()
        self._status.refuse("shutting down")
        await self._generations.wait_until_none(self._config.drain)
        self._fail_all(SHUTDOWN)
        with anyio.move_on_after(CUT_OFF):
            await self._generations.wait_until_none(CUT_OFF)
            await self._exchanges.wait_until_answered()
        await self._cut_off_all()

    async def hurry_when(self, signalled_again: asyncio.Event) -> None:
        """At a second signal, end all open streams at once."""
        await signalled_again.wait()
        self._fail_all(SHUTDOWN)
        await self._cut_off_all()

    def refuse_all(self) -> None:
        """Take no more requests, and end those that are still open with an error event: the server has ended."""
        self._status.refuse("shutting down")
        self._fail_all(SHUTDOWN)

    def end_process(self, exit_status: int) -> None:
        """Begin to end the process, if this may."""
        if self._may_end_process:
            log.critical("The process ends with status %d (ENGINE_ON_FAILURE=stay keeps it)", exit_status)
            self._exit_status = exit_status
            process.begin_to_end(self._config.drain + SLACK, exit_status)

    def after_failed_load(self) -> None:
        """Begin to end the process, with a status that tells supervisors that another start would fail as well.

        A worker with `ENGINE_SOCKET` stays: its engine is in another process.
        """
        if self._config.socket is None:
            self.end_process(STARTUP_FAILURE if is_worker() else process.CANNOT_LOAD)

    def finish(self) -> None:
        """Exit with the status that was chosen, once everything is closed; the server would exit with its own."""
        if self._exit_status is not None:
            process.end_now(self._exit_status)

    async def _cut_off_all(self) -> None:
        for generation in self._generations:
            generation.cancel()
        await self._exchanges.end_all()
