"""An engine service for workers in other processes: the engine's end of `ENGINE_SOCKET`.

Invariants:
    - A step never waits for a worker: a message goes to the system, or into a buffer that has a limit.
    - When a worker's connection ends, whatever the reason, its sequences are aborted.
    - A message that cannot be read, or an error in one request, ends that request and nothing else.
    - The engine's number for a sequence is an integer that contains the worker's number and the worker's own number
      for the sequence.
"""

import asyncio
import logging
import uuid
from collections import defaultdict
from contextlib import suppress

from backends.channel import Channel
from backends.host_requests import Requests
from backends.host_worker import Worker, to_worker_id
from backends.throttled_log import ThrottledLog
from backends.wire import (
    PROTOCOL,
    Events,
    Farewell,
    Hello,
    Malformed,
    Message,
    Outage,
    Pulse,
    Refused,
    Totals,
    Welcome,
    common_settings,
)
from config import PREFIX, EngineSettings
from interface.engine import EngineService, StepEvents, Tally
from interface.errors import LoadError
from interface.events import Event, Failed, Finished
from interface.requests import SequenceId

log = logging.getLogger("engine")

PULSE_INTERVAL, BUSY_INTERVAL = 1.0, 0.1
"""Seconds between two reports to the workers: the most, and the least."""
LEAVE_LIMIT = 1.0
"""Seconds that workers get to read the last message; one may be stopped."""


class EngineHost:
    """Passes the workers' requests on to an engine service, and sends each worker its events.

    `connect` makes the protocol for a new connection. Workers that connect before `start` wait for their welcome.
    """

    def __init__(self, config: EngineSettings) -> None:
        self._settings = common_settings(config)
        self._name = uuid.uuid4().hex
        self._requests = Requests(config.max_streams + config.max_waiting)
        self._workers: dict[int, Worker] = {}
        self._last_number = 0
        self._departed = Tally()
        self._refusals = ThrottledLog(log.error)  # a worker that is refused tries again twice a second
        self._is_ending = False
        self.failure: str | None = None
        self.has_failed = asyncio.Event()

    @property
    def _service(self) -> EngineService:
        assert self._requests.service is not None, "start has not returned"
        return self._requests.service

    # --- Its life -----------------------------------------------------------------------------------------------------

    async def start(self, service: EngineService) -> None:
        """Start the service, and welcome the workers that are connected, and all later ones. Raises LoadError."""
        await service.start(self._deliver, self._on_failure, self._on_outage)
        self._requests.accept(service)
        self._pulsing = asyncio.create_task(self._keep_pulsing(), name="tell the workers")
        for worker in self._workers.values():
            self._welcome(worker)

    async def close(self, reason: str, drain: float = 0.0) -> None:
        """Take no more requests, give open sequences `drain` seconds to end, and send the workers the reason."""
        self._requests.refuse(reason)
        with suppress(TimeoutError):
            async with asyncio.timeout(drain):
                await self._requests.until_none_is_open()
        self._is_ending = True
        workers = list(self._workers.values())
        for worker in workers:
            worker.channel.send(Farewell(reason))
        await asyncio.gather(*[worker.channel.finish(LEAVE_LIMIT) for worker in workers])
        if self._requests.service is not None:
            self._pulsing.cancel()
            await self._requests.service.close()

    async def _keep_pulsing(self) -> None:
        """Report to every worker how busy the engine is: soon after it changes, and every second in any case."""
        told_totals_at = 0.0
        while True:
            now = asyncio.get_running_loop().time()
            counters = self._service.counters()
            with_totals = now - told_totals_at >= PULSE_INTERVAL
            for worker in self._workers.values():
                worker.channel.send(Pulse(counters))
                if with_totals:
                    worker.channel.send(self._totals(worker))
            if with_totals:
                told_totals_at = now
            await asyncio.sleep(BUSY_INTERVAL)
            with suppress(TimeoutError):
                async with asyncio.timeout(PULSE_INTERVAL - BUSY_INTERVAL):
                    await self._requests.news.wait()
            self._requests.news.clear()

    def _totals(self, worker: Worker) -> Totals:
        others = [other.tally for other in self._workers.values() if other is not worker]
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
            self._requests.take(worker, message, number)

    def _on_hello(self, worker: Worker, hello: Hello) -> None:
        if reason := self._mismatch(hello):
            self._refuse(worker, reason)
            return
        self._departed = _larger(self._departed, hello.departed)
        self._workers[worker.number] = worker
        if self._requests.service is not None:
            self._welcome(worker)

    def _refuse(self, worker: Worker, reason: str) -> None:
        self._refusals.say(f"A worker is refused: {reason}")
        worker.channel.send(Refused.of(LoadError(reason)))
        worker.channel.close()

    def _mismatch(self, hello: Hello) -> str | None:
        """Return why a worker is refused, or None: its code and settings must be those of the engine's process."""
        if hello.protocol != PROTOCOL:
            return (
                f"Expected a worker of protocol {PROTOCOL}, got one of {hello.protocol}; "
                "start the engine's process and its workers from the same code."
            )
        for name in self._settings.keys() | hello.settings.keys():
            ours, theirs = self._settings.get(name), hello.settings.get(name)
            if ours != theirs:
                return (
                    f"{PREFIX}{name.upper()} is {theirs} for a worker, and {ours} for the engine's process; "
                    "start them with the same settings."
                )
        return None

    def _welcome(self, worker: Worker) -> None:
        worker.is_welcome = True
        self._refusals.forget()
        worker.channel.send(Welcome(self._service.info, self._name))
        worker.channel.send(Pulse(self._service.counters()))
        worker.channel.send(self._totals(worker))
        if self._requests.outage is not None:
            worker.channel.send(Outage(self._requests.outage))

    def _on_malformed(self, worker: Worker, malformed: Malformed) -> None:
        if worker.is_welcome:
            log.error("From worker %d, %s", worker.number, malformed)
            worker.channel.send(Refused.of(malformed), malformed.number)
        else:
            self._refuse(worker, f"The engine's process could not read {malformed}")

    def _on_lost(self, worker: Worker, reason: str) -> None:
        """Abort a worker's open sequences. Its counts are kept, since it may have ended."""
        if self._workers.pop(worker.number, None) is None:
            return
        if (lost := self._requests.of(worker)) and not self._is_ending:
            log.warning("Worker %d is lost with %d sequences: %s", worker.number, len(lost), reason)
        self._requests.leave(worker)
        self._departed += Tally(worker.tally.counts)

    # --- Callbacks of the engine --------------------------------------------------------------------------------------

    def _deliver(self, events: StepEvents) -> None:
        """Send each worker its events of a step, in one message."""
        by_worker: dict[Worker, list[tuple[SequenceId, Event]]] = defaultdict(list)
        for sequence_id, event in events:
            worker = self._requests.open.get(sequence_id)
            if worker is None:
                continue  # aborted
            by_worker[worker].append((to_worker_id(sequence_id), event))
            if isinstance(event, Finished | Failed):
                self._requests.end(sequence_id)
        for worker, worker_events in by_worker.items():
            self._send_events(worker, worker_events)
        self._requests.news.set()

    def _send_events(self, worker: Worker, events: list[tuple[SequenceId, Event]]) -> None:
        try:
            worker.channel.send(Events(events))
        except ValueError as error:  # one of them cannot be serialized: send them one by one
            if len(events) > 1:
                for pair in events:
                    self._send_events(worker, [pair])
                return
            ((sequence_id, event),) = events
            log.exception("An event could not be sent")
            self._requests.abort([worker.to_engine_id(sequence_id)])
            worker.channel.send(Events([(sequence_id, Failed(str(error), "engine_error", event.index))]))

    def _on_outage(self, reason: str | None) -> None:
        self._requests.interrupt(reason)
        for worker in self._workers.values():
            worker.channel.send(Outage(reason))

    def _on_failure(self, reason: str) -> None:
        self.failure = reason
        self._requests.refuse(reason)
        self.has_failed.set()


def _larger(first: Tally, second: Tally) -> Tally:
    """Return the later of two states of the same counts, which only grow."""
    names = first.counts.keys() | second.counts.keys()
    return Tally({name: max(first.counts.get(name, 0), second.counts.get(name, 0)) for name in names})
