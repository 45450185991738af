"""The service of a worker, which has no model: it talks to an engine in another process (`ENGINE_SOCKET`).

Invariants:
    - A sequence's number is known to the driver before its request is sent, so no event can come too early.
    - Requests and aborts travel through one connection, in their order.
    - When the engine's process ends, every open question gets an error, and the driver is told of an outage. The worker
      tries to connect again, at growing intervals, until there is an engine.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from backends.channel import Channel
from backends.shares import Shares
from backends.throttled_log import ThrottledLog
from backends.wire import (
    PROTOCOL,
    Abort,
    Accepted,
    Counted,
    Detokenize,
    Done,
    Drop,
    Events,
    Farewell,
    Find,
    Hello,
    Keep,
    Malformed,
    Message,
    Outage,
    Piece,
    Pieces,
    Pulse,
    Recall,
    Refused,
    Submit,
    Text,
    TokenIds,
    Tokenize,
    Totals,
    Welcome,
)
from interface.engine import Counters, ModelInfo, Sink, Tally, Tokenized
from interface.errors import EngineUnavailable
from interface.requests import GenerationRequest, Prompt, SequenceId

log = logging.getLogger("engine")

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5
"""Seconds between two tries to connect; each pause is twice the one before."""
REPORT_INTERVAL = 1.0
"""Seconds between two reports of what this process has counted."""
SILENCE = 30.0
"""Seconds without a message after which an engine counts as lost. It sends one every second."""
IDLE = Counters(0, 0, 0)

Found = TypeVar("Found", bound=Message)


class SocketService:
    """An `EngineService`, and a `SharedEngine`, whose engine is at the other end of a Unix socket."""

    def __init__(self, path: str, settings: dict[str, Any]) -> None:
        self._path = path
        self._settings = settings
        self._shares = Shares()
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Message]] = {}
        self._channel: Channel | None = None
        """The connection, while the engine takes requests through it."""
        self._info: ModelInfo | None = None
        self._counters = IDLE
        self._silence = 0.0
        """Seconds since the engine's last message, in whole intervals of reports: time in which this process was
        stopped, perhaps together with the engine, does not count."""
        self._reason = "it has not answered yet"
        """The reason why there is no channel."""

    # --- The service ------------------------------------------------------------------------------------------------

    async def start(
        self, on_events: Sink, on_failure: Callable[[str], None], on_outage: Callable[[str | None], None]
    ) -> None:
        """Wait for the engine's welcome, which comes once its model is loaded."""
        self._on_events = on_events
        self._on_outage = on_outage
        self._loop = asyncio.get_running_loop()
        self._welcomed: asyncio.Future[None] = self._loop.create_future()
        self._tasks = [
            asyncio.create_task(self._keep_connected(), name="keep connected with the engine"),
            asyncio.create_task(self._keep_reporting(), name="report to the engine"),
        ]
        try:
            await self._welcomed
        except BaseException:
            await self.close()
            raise

    @property
    def info(self) -> ModelInfo:
        assert self._info is not None, "start has not returned"
        return self._info

    async def submit(self, requests: Sequence[GenerationRequest]) -> Sequence[int]:
        return (await self._ask(Submit.of(requests), Accepted)).prompt_tokens

    def abort(self, sequence_id: SequenceId) -> None:
        if self._channel is not None:
            self._channel.send(Abort(sequence_id))

    def counters(self) -> Counters:
        return self._counters

    async def tokenize(self, prompt: Prompt) -> Tokenized:
        return (await self._ask(Tokenize(prompt), TokenIds)).tokenized

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return (await self._ask(Detokenize(list(token_ids)), Text)).text

    async def keep(self, pieces: Mapping[str, bytes], beside: str | None = None) -> None:
        await self._ask(Keep(dict(pieces), beside), Done)

    async def recall(self, name: str) -> bytes | None:
        return (await self._ask(Recall(name), Piece)).piece

    async def find(self, beginning: str) -> Mapping[str, bytes]:
        return (await self._ask(Find(beginning), Pieces)).pieces

    async def drop(self, name: str) -> bool:
        return (await self._ask(Drop(name), Done)).has_changed

    async def close(self) -> None:
        self._report()
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._lose("this worker ends")

    async def _ask(self, message: Message, kind: type[Found]) -> Found:
        """Send a message, and wait for its answer."""
        if self._channel is None:
            raise _unavailable(self._reason)
        number = next(self._numbers)
        answered: asyncio.Future[Message] = self._loop.create_future()
        self._asked[number] = answered
        try:
            self._channel.send(message, number)
            answer = await answered
        finally:
            del self._asked[number]
        assert isinstance(answer, kind)
        return answer

    # --- Counts for the metrics -------------------------------------------------------------------------------------

    def share(self, own: Callable[[], Tally]) -> None:
        self._shares.own = own
        self._report()

    def others(self) -> Tally:
        return self._shares.others()

    async def _keep_reporting(self) -> None:
        while True:
            await asyncio.sleep(REPORT_INTERVAL)
            self._report()
            self._silence += REPORT_INTERVAL
            if self._channel is not None and self._silence > SILENCE:
                self._channel.cut(f"it has said nothing for {SILENCE:g} seconds")

    def _report(self) -> None:
        if self._channel is not None:
            self._channel.send(Counted(self._shares.report()))

    # --- The connection ---------------------------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        pause = FIRST_PAUSE
        obstacles = ThrottledLog(log.warning)
        while True:
            obstacle = await self._connect()
            if obstacle is None:
                pause = FIRST_PAUSE
                obstacles.forget()
            else:
                obstacles.say(f"Waiting for an engine at {self._path}: {obstacle}")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _connect(self) -> str | None:
        """Talk to an engine until the connection ends. Without an engine, return why there is none."""
        ended: asyncio.Future[str] = self._loop.create_future()

        def end(reason: str) -> None:
            if not ended.done():
                ended.set_result(reason)

        channel = Channel(
            lambda message, number: self._on_message(channel, message, number),
            lambda malformed: self._on_malformed(channel, malformed),
            end,
        )
        try:
            await self._loop.create_unix_connection(lambda: channel, self._path)
        except OSError as error:
            return error.strerror or str(error)
        channel.send(Hello(PROTOCOL, self._settings, self._shares.departed))
        self._farewell = ""
        try:
            reason = await ended
        finally:
            channel.close()
        reason = self._farewell or reason
        if self._channel is not channel:
            return reason
        self._lose(reason)
        self._on_outage(reason)
        return None

    def _lose(self, reason: str) -> None:
        """Fail all open questions: the connection has ended."""
        self._channel = None
        self._counters = IDLE
        self._reason = reason
        for answered in self._asked.values():
            if not answered.done():
                answered.set_exception(_unavailable(reason))

    # --- Messages of the engine -------------------------------------------------------------------------------------

    def _on_message(self, channel: Channel, message: Message, number: int) -> None:
        self._silence = 0.0
        match message:
            case Events():
                self._on_events(message.events)
            case Pulse():
                self._counters = message.counters
            case Totals():
                self._shares.update(message.others, message.departed)
            case Welcome():
                self._on_welcome(channel, message)
            case Refused() if channel is not self._channel:
                self._on_refused(message)
            case Outage():
                self._on_outage(message.reason)
            case Farewell():
                self._farewell = message.reason
            case Refused():
                self._on_answer(number, message.to_error())
            case _:
                self._on_answer(number, message)

    def _on_welcome(self, channel: Channel, welcome: Welcome) -> None:
        self._channel = channel
        self._info = welcome.info
        self._shares.connected(welcome.engine)
        self._report()
        if self._welcomed.done():
            self._on_outage(None)
        else:
            self._welcomed.set_result(None)

    def _on_refused(self, refused: Refused) -> None:
        """Handle the engine's refusal of this worker. After a reconnection it may be another engine."""
        self._farewell = refused.message
        if not self._welcomed.done():
            self._welcomed.set_exception(refused.to_error())
        elif refused.message != self._reason:
            self._reason = refused.message
            self._on_outage(refused.message)

    def _on_answer(self, number: int, answer: Message | Exception) -> None:
        answered = self._asked.get(number)
        if answered is None or answered.done():  # its asker has been cancelled
            return
        if isinstance(answer, Exception):
            answered.set_exception(answer)
        else:
            answered.set_result(answer)

    def _on_malformed(self, channel: Channel, malformed: Malformed) -> None:
        log.error("From the engine, %s", malformed)
        if malformed.number:
            self._on_answer(malformed.number, RuntimeError("The engine's answer cannot be read"))
        else:  # perhaps events, without which a stream would wait for ever
            channel.cut("one of its messages cannot be read")


def _unavailable(reason: str) -> EngineUnavailable:
    return EngineUnavailable(f"The engine is not available: {reason}")
