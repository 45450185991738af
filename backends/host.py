"""An engine service for workers in other processes: the engine's end of `ENGINE_SOCKET`.

Invariants:
    - A step is never held up: a message is handed to the system, or waits in a buffer that has a limit.
    - When a worker's connection ends, whatever the reason, its sequences are aborted.
    - A message that cannot be read, or an error in one request, ends that request and nothing else.
    - A sequence's number is its worker's number and the one that it has there, in one integer.
"""

import asyncio
import logging
import uuid
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from backends.channel import Channel
from backends.wire import (
    PROTOCOL,
    Abort,
    Accepted,
    Counted,
    Detokenize,
    Events,
    Farewell,
    Hello,
    Malformed,
    Message,
    Outage,
    Pulse,
    Refused,
    Submit,
    Text,
    TokenIds,
    Tokenize,
    Totals,
    Welcome,
    common_settings,
)
from config import PREFIX, Config
from interface.engine import Counters, EngineService, StepEvents, Tally
from interface.errors import EngineUnavailable, LoadError, QueueFull, RequestError
from interface.events import Event, Failed, Finished
from interface.requests import GenerationRequest, SequenceId

log = logging.getLogger("engine")

SHIFT = 48
"""Bits of a sequence's number that are its worker's own."""
OWN = (1 << SHIFT) - 1
PULSE_INTERVAL, BUSY_INTERVAL = 1.0, 0.1
"""Seconds between two reports to the workers: at most, and at least."""
ORDINARY = (RequestError, QueueFull, EngineUnavailable)
"""What a request may be refused for without a line in the log."""


class Worker:
    """One worker, as long as it is connected."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.channel: Channel
        self.is_welcome = False
        self.tally = Tally()
        self.open: set[SequenceId] = set()
        """Its sequences that have not ended, by the numbers that they have here."""
        self.tasks: set[asyncio.Task[None]] = set()
        self.submitting: dict[SequenceId, asyncio.Task[None]] = {}

    def own(self, sequence_id: SequenceId) -> SequenceId:
        """The number, here, of a sequence that has this one there. Raises ValueError for one that is too large."""
        if not 0 <= sequence_id <= OWN:
            raise ValueError(f"expected a sequence's number from 0 to {OWN}, got {sequence_id}")
        return self.number << SHIFT | sequence_id

    def own_of_new(self, requests: Iterable[GenerationRequest]) -> list[SequenceId]:
        """The numbers, here, of sequences that begin. Raises ValueError for one that is too large, or in use."""
        ids = [self.own(request.sequence_id) for request in requests]
        if len({*ids, *self.open, *self.submitting}) < len(ids) + len(self.open | self.submitting.keys()):
            raise ValueError("expected numbers that no other sequence has")
        return ids


class EngineHost:
    """Takes what workers ask for to an engine service, and brings each its events.

    `connect` makes the protocol for a new connection. Workers that come before `start` wait for their welcome.
    """

    def __init__(self, config: Config) -> None:
        self._settings = common_settings(config)
        self._room = config.max_streams + config.max_waiting
        self._name = uuid.uuid4().hex
        self._service: EngineService | None = None
        self._workers: dict[int, Worker] = {}
        self._last_number = 0
        self._departed = Tally()
        self._outage: str | None = None
        """Why no requests are taken, when none are."""
        self._news = asyncio.Event()
        self._has_ended = asyncio.Event()
        """Set when a sequence has."""
        self.failure: str | None = None
        self.has_failed = asyncio.Event()

    # --- Its life -----------------------------------------------------------------------------------------------------

    async def start(self, service: EngineService) -> None:
        """Welcome the workers that have come, and all that will. Raises LoadError."""
        await service.start(self._deliver, self._on_failure, self._on_outage)
        self._service = service
        self._pulsing = asyncio.create_task(self._keep_pulsing(), name="tell the workers")
        for worker in self._workers.values():
            self._welcome(worker)

    async def close(self, reason: str, drain: float = 0.0) -> None:
        """Take no more requests, give open sequences `drain` seconds to end, and tell the workers why it ends."""
        self._outage = reason
        with suppress(TimeoutError):
            async with asyncio.timeout(drain):
                await self._until_none_is_open()
        for worker in list(self._workers.values()):
            worker.channel.send(Farewell(reason))
            worker.channel.close()
        if self._service is not None:
            self._pulsing.cancel()
            await self._service.close()

    async def _until_none_is_open(self) -> None:
        while any(worker.open for worker in self._workers.values()):
            self._has_ended.clear()
            await self._has_ended.wait()

    async def _keep_pulsing(self) -> None:
        """Tell every worker how busy the engine is: soon when that changes, and every second in any case."""
        told_totals_at = 0.0
        while True:
            now = asyncio.get_running_loop().time()
            counters = self._service.counters() if self._service is not None else Counters(0, 0, 0)
            with_totals = now - told_totals_at >= PULSE_INTERVAL
            for worker in self._workers.values():
                if worker.is_welcome:
                    worker.channel.send(Pulse(counters))
                    if with_totals:
                        worker.channel.send(self._totals(worker))
            if with_totals:
                told_totals_at = now
            await asyncio.sleep(BUSY_INTERVAL)
            with suppress(TimeoutError):
                async with asyncio.timeout(PULSE_INTERVAL - BUSY_INTERVAL):
                    await self._news.wait()
            self._news.clear()

    def _totals(self, worker: Worker) -> Totals:
        others = [one.tally for one in self._workers.values() if one is not worker]
        return Totals(sum(others, self._departed), self._departed)

    # --- Its workers --------------------------------------------------------------------------------------------------

    def connect(self) -> Channel:
        """Make the protocol of a new connection."""
        self._last_number += 1
        worker = Worker(self._last_number)
        worker.channel = Channel(
            lambda message, number: self._on_message(worker, message, number),
            lambda malformed: self._on_malformed(worker, malformed),
            lambda reason: self._on_lost(worker, reason),
        )
        return worker.channel

    def _on_message(self, worker: Worker, message: Message, number: int) -> None:
        if isinstance(message, Hello):
            self._on_hello(worker, message)
        elif not worker.is_welcome:
            worker.channel.cut("expected a Hello first")
        else:
            self._on_request(worker, message, number)

    def _on_hello(self, worker: Worker, hello: Hello) -> None:
        if reason := self._mismatch(hello):
            log.error("A worker is refused: %s", reason)
            worker.channel.send(Refused.of(LoadError(reason)))
            worker.channel.close()
            return
        self._departed = _larger(self._departed, hello.departed)
        self._workers[worker.number] = worker
        if self._service is not None:
            self._welcome(worker)

    def _mismatch(self, hello: Hello) -> str | None:
        """Why a worker cannot be taken: what it tells its clients of the engine would not be so."""
        if hello.protocol != PROTOCOL:
            return (
                f"Expected a worker of protocol {PROTOCOL}, got one of {hello.protocol}; "
                "start the engine's process and its workers from the same code."
            )
        for name in self._settings.keys() | hello.settings.keys():
            here, there = self._settings.get(name), hello.settings.get(name)
            if here != there:
                return (
                    f"{PREFIX}{name.upper()} is {there} for a worker, and {here} for the engine's process; "
                    "start them with the same settings."
                )
        return None

    def _welcome(self, worker: Worker) -> None:
        assert self._service is not None
        worker.is_welcome = True
        worker.channel.send(Welcome(self._service.info, self._name))
        worker.channel.send(Pulse(self._service.counters()))
        worker.channel.send(self._totals(worker))
        if self._outage is not None:
            worker.channel.send(Outage(self._outage))

    def _on_malformed(self, worker: Worker, malformed: Malformed) -> None:
        log.error("From worker %d, %s", worker.number, malformed)
        if worker.is_welcome:
            worker.channel.send(Refused.of(malformed), malformed.number)
        else:
            worker.channel.send(Refused.of(LoadError(f"The engine's process could not read {malformed}")))
            worker.channel.close()

    def _on_lost(self, worker: Worker, reason: str) -> None:
        """Abort what a worker had open. Whether it has ended or its connection has, its counts are kept."""
        if self._workers.pop(worker.number, None) is None:
            return
        if worker.open:
            log.warning("Worker %d is lost with %d sequences: %s", worker.number, len(worker.open), reason)
        for task in worker.tasks:
            task.cancel()
        self._abort(worker, list(worker.open))
        self._departed += Tally(worker.tally.counts)

    # --- Their requests -----------------------------------------------------------------------------------------------

    def _on_request(self, worker: Worker, message: Message, number: int) -> None:
        try:
            self._take(worker, message, number)
        except ValueError as error:
            log.error("From worker %d, %s", worker.number, error)
            worker.channel.send(Refused.of(error), number)

    def _take(self, worker: Worker, message: Message, number: int) -> None:
        match message:
            case Submit():
                self._begin_submit(worker, message, number)
            case Abort():
                self._on_abort(worker, worker.own(message.sequence_id))
            case Tokenize():
                self._begin(worker, number, self._tokenize(message))
            case Detokenize():
                self._begin(worker, number, self._detokenize(message))
            case Counted():
                worker.tally = message.tally
            case _:
                raise ValueError(f"expected a request, got {type(message).__name__}")

    def _begin(self, worker: Worker, number: int, answer: Coroutine[Any, Any, Message]) -> "asyncio.Task[None]":
        task = asyncio.create_task(self._answer(worker, number, answer))
        worker.tasks.add(task)
        task.add_done_callback(worker.tasks.discard)
        return task

    async def _answer(self, worker: Worker, number: int, answer: Coroutine[Any, Any, Message]) -> None:
        try:
            worker.channel.send(await answer, number)
        except Exception as error:
            if not isinstance(error, ORDINARY):
                log.exception("A request of worker %d failed", worker.number)
            worker.channel.send(Refused.of(error), number)

    def _begin_submit(self, worker: Worker, submit: Submit, number: int) -> None:
        ids = worker.own_of_new(request for _, request in submit.requests)
        task = self._begin(worker, number, self._submit(worker, submit, ids))
        worker.submitting |= dict.fromkeys(ids, task)
        task.add_done_callback(lambda _: [worker.submitting.pop(sequence_id, None) for sequence_id in ids])

    async def _submit(self, worker: Worker, submit: Submit, ids: Sequence[SequenceId]) -> Accepted:
        service = self._available_service()
        self._check_room(len(ids))
        requests = [replace(one, sequence_id=new) for one, new in zip(submit.to_requests(), ids, strict=True)]
        worker.open.update(ids)
        try:
            return Accepted(list(await service.submit(requests)))
        except BaseException:
            self._abort(worker, ids)
            raise
        finally:
            self._news.set()

    def _available_service(self) -> EngineService:
        if self._outage is not None or self._service is None:
            raise EngineUnavailable(f"The engine is not available: {self._outage}")
        return self._service

    def _check_room(self, sequences: int) -> None:
        open_now = sum(len(worker.open) for worker in self._workers.values())
        if open_now + sequences > self._room:
            raise QueueFull(f"{open_now} requests are running or waiting, and the limit is {self._room}")

    def _on_abort(self, worker: Worker, sequence_id: SequenceId) -> None:
        submitting = worker.submitting.get(sequence_id)
        if submitting is not None:
            submitting.cancel()
        elif sequence_id in worker.open:
            self._abort(worker, [sequence_id])

    def _abort(self, worker: Worker, ids: Sequence[SequenceId]) -> None:
        for sequence_id in ids:
            assert self._service is not None
            self._service.abort(sequence_id)
            self._end(worker, sequence_id)

    def _end(self, worker: Worker, sequence_id: SequenceId) -> None:
        worker.open.discard(sequence_id)
        self._has_ended.set()
        self._news.set()

    async def _tokenize(self, question: Tokenize) -> TokenIds:
        return TokenIds(await self._available_service().tokenize(question.prompt))

    async def _detokenize(self, question: Detokenize) -> Text:
        return Text(await self._available_service().detokenize(question.token_ids))

    # --- What the engine says -----------------------------------------------------------------------------------------

    def _deliver(self, events: StepEvents) -> None:
        """Send each worker its events of a step, in one message."""
        by_worker: dict[int, list[tuple[SequenceId, Event]]] = defaultdict(list)
        for sequence_id, event in events:
            worker = self._workers.get(sequence_id >> SHIFT)
            if worker is None or sequence_id not in worker.open:
                continue  # aborted
            by_worker[worker.number].append((sequence_id & OWN, event))
            if isinstance(event, Finished | Failed):
                self._end(worker, sequence_id)
        for number, its_events in by_worker.items():
            self._send_events(self._workers[number], its_events)
        self._news.set()

    def _send_events(self, worker: Worker, events: list[tuple[SequenceId, Event]]) -> None:
        try:
            worker.channel.send(Events(events))
        except ValueError as error:  # one that cannot be written; the others can
            if len(events) > 1:
                for one in events:
                    self._send_events(worker, [one])
                return
            ((sequence_id, event),) = events
            log.exception("An event could not be sent")
            self._abort(worker, [worker.own(sequence_id)])
            worker.channel.send(Events([(sequence_id, Failed(str(error), "engine_error", event.index))]))

    def _on_outage(self, reason: str | None) -> None:
        self._outage = reason
        for worker in self._workers.values():
            worker.open.clear()
            worker.channel.send(Outage(reason))
        self._has_ended.set()

    def _on_failure(self, reason: str) -> None:
        self.failure = reason
        self._outage = reason
        self.has_failed.set()


def _larger(one: Tally, other: Tally) -> Tally:
    """Of two states of the same counts the later one: they only grow."""
    names = one.counts.keys() | other.counts.keys()
    return Tally({name: max(one.counts.get(name, 0), other.counts.get(name, 0)) for name in names})
