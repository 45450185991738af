"""The workers' requests to an engine, and their open sequences.

Invariants:
    - Every request gets one answer; an error in one ends that request and nothing else.
    - A sequence is in `open` from before its events may come until it has ended or has been aborted.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from backends.host_worker import Worker
from backends.kept_in_memory import KeptInMemory
from backends.wire import (
    Abort,
    Accepted,
    Counted,
    Detokenize,
    Done,
    Drop,
    Find,
    Keep,
    Message,
    Piece,
    Pieces,
    Recall,
    Refused,
    Submit,
    Text,
    TokenIds,
    Tokenize,
)
from interface.engine import EngineService
from interface.errors import EngineUnavailable, QueueFull, RequestError, check_room
from interface.requests import GenerationRequest, SequenceId

log = logging.getLogger("engine")

ORDINARY = (RequestError, QueueFull, EngineUnavailable)
"""Errors that refuse a request without a line in the log."""


class Requests:
    """Answers the workers' requests from `accept` on, while there is no `outage`."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.service: EngineService | None = None
        self.outage: str | None = None
        """The reason why no requests are taken, if none are."""
        self.open: dict[SequenceId, Worker] = {}
        """The worker of each sequence that has not ended, by the engine's number for it."""
        self._kept = KeptInMemory()
        """What one worker has kept for all of them."""
        self._submitting: dict[SequenceId, asyncio.Task[None]] = {}
        self._has_ended = asyncio.Event()
        """Set when a sequence has ended."""
        self.news = asyncio.Event()
        """Set when the engine may be more or less busy than before."""

    def take(self, worker: Worker, message: Message, number: int) -> None:
        """Answer a worker's request, now or later."""
        try:
            self._take(worker, message, number)
        except ValueError as error:
            log.error("From worker %d, %s", worker.number, error)
            worker.channel.send(Refused.of(error), number)

    def of(self, worker: Worker) -> list[SequenceId]:
        """A worker's open sequences."""
        return [sequence_id for sequence_id, owner in self.open.items() if owner is worker]

    def leave(self, worker: Worker) -> None:
        """Cancel a worker's requests, and abort its sequences."""
        for task in worker.tasks:
            task.cancel()
        self.abort(self.of(worker))

    def abort(self, ids: Iterable[SequenceId]) -> None:
        for sequence_id in ids:
            assert self.service is not None
            self.service.abort(sequence_id)
            self.end(sequence_id)

    def end(self, sequence_id: SequenceId) -> None:
        """Forget a sequence: it has had its last event, or will get none."""
        self.open.pop(sequence_id, None)
        self._has_ended.set()
        self.news.set()

    def accept(self, service: EngineService) -> None:
        """Take requests from now on, for a service that has started."""
        self.service = service

    def refuse(self, reason: str) -> None:
        """Take no more requests; the open sequences go on."""
        self.outage = reason

    def interrupt(self, reason: str | None) -> None:
        """Forget all open sequences, as the engine is gone for now; without a reason it is back."""
        self.outage = reason
        self.open.clear()
        self._has_ended.set()

    async def until_none_is_open(self) -> None:
        while self.open:
            self._has_ended.clear()
            await self._has_ended.wait()

    # --- Each kind ----------------------------------------------------------------------------------------------------

    def _take(self, worker: Worker, message: Message, number: int) -> None:
        match message:
            case Submit():
                self._begin_submit(worker, message, number)
            case Abort():
                self._on_abort(worker.to_engine_id(message.sequence_id))
            case Tokenize():
                self._begin(worker, number, partial(self._tokenize, message))
            case Detokenize():
                self._begin(worker, number, partial(self._detokenize, message))
            case Keep():
                self._kept.put(message.pieces, message.beside)
                worker.channel.send(Done(True), number)
            case Recall():
                worker.channel.send(Piece(self._kept.get(message.name)), number)
            case Find():
                worker.channel.send(Pieces(dict(self._kept.find(message.beginning))), number)
            case Drop():
                worker.channel.send(Done(self._kept.drop(message.name)), number)
            case Counted():
                worker.tally = message.tally
            case _:
                raise ValueError(f"expected a request, got {type(message).__name__}")

    def _begin(self, worker: Worker, number: int, answer: Callable[[], Awaitable[Message]]) -> "asyncio.Task[None]":
        task = asyncio.create_task(self._answer(worker, number, answer))
        worker.tasks.add(task)
        task.add_done_callback(worker.tasks.discard)
        return task

    async def _answer(self, worker: Worker, number: int, answer: Callable[[], Awaitable[Message]]) -> None:
        try:
            worker.channel.send(await answer(), number)
        except Exception as error:
            if not isinstance(error, ORDINARY):
                log.exception("A request of worker %d failed", worker.number)
            worker.channel.send(Refused.of(error), number)

    def _begin_submit(self, worker: Worker, submit: Submit, number: int) -> None:
        ids = self._new_ids(worker, [request for _, request in submit.requests])
        task = self._begin(worker, number, partial(self._submit, worker, submit, ids))
        self._submitting |= dict.fromkeys(ids, task)
        task.add_done_callback(lambda _: [self._submitting.pop(sequence_id, None) for sequence_id in ids])

    def _new_ids(self, worker: Worker, requests: Sequence[GenerationRequest]) -> list[SequenceId]:
        """Return the engine's numbers for new sequences. Raises ValueError for one that is too large, or in use."""
        ids = [worker.to_engine_id(request.sequence_id) for request in requests]
        if len(set(ids)) < len(ids) or any(number in self.open or number in self._submitting for number in ids):
            raise ValueError("expected numbers that no other sequence has")
        return ids

    async def _submit(self, worker: Worker, submit: Submit, ids: Sequence[SequenceId]) -> Accepted:
        service = self._available_service()
        check_room(len(ids), len(self.open), self._capacity)
        requests = [replace(request, sequence_id=new) for request, new in zip(submit.to_requests(), ids, strict=True)]
        self.open |= dict.fromkeys(ids, worker)
        try:
            return Accepted(list(await service.submit(requests)))
        except BaseException:
            self.abort(ids)
            raise
        finally:
            self.news.set()

    def _available_service(self) -> EngineService:
        if self.outage is not None or self.service is None:
            raise EngineUnavailable(f"The engine is not available: {self.outage}")
        return self.service

    def _on_abort(self, sequence_id: SequenceId) -> None:
        submitting = self._submitting.get(sequence_id)
        is_cancelled = submitting is not None and submitting.cancel()  # False just after it was done
        if not is_cancelled and sequence_id in self.open:
            self.abort([sequence_id])

    async def _tokenize(self, question: Tokenize) -> TokenIds:
        return TokenIds(await self._available_service().tokenize(question.prompt))

    async def _detokenize(self, question: Detokenize) -> Text:
        return Text(await self._available_service().detokenize(question.token_ids))
