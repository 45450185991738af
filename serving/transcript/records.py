"""The records of requests, with a note for each message. The numbers of both are limited.

Invariants:
    - A note is never changed, and a record's notes are in the order in which they passed.
    - At most `max_requests` records are kept, at most `max_notes` notes in each, at most `head_bytes` bytes of a
      message in each note. The oldest record makes room; a record that is full only counts what else passes.
"""

import codecs
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import contract

log = logging.getLogger("engine")

Direction = Literal["scope", "receive", "send"]
"""The call of the application, what it receives from the server, and what it sends."""

PREFIX = "/transcript/"
END = b"event: end\ndata: {}\n\n"
QUIET_PATHS = frozenset(contract.REPORTS)
"""Paths that are not recorded: probes and scrapes come every few seconds, and would soon displace all other records."""


@dataclass(frozen=True, slots=True)
class Note:
    """One recorded message."""

    n: int
    t_ms: float
    direction: Direction
    type: str
    size: int
    head: str
    more_body: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """`t_ms` counts from the request's first message, `size` is in bytes, `head` is the first of them as text."""
        fields: dict[str, Any] = {
            "n": self.n,
            "t_ms": self.t_ms,
            "direction": self.direction,
            "type": self.type,
            "size": self.size,
            "head": self.head,
        }
        return fields if self.more_body is None else fields | {"more_body": self.more_body}

    def as_event(self) -> bytes:
        """The note as a server-sent event."""
        return b"id: %d\ndata: %s\n\n" % (self.n, json.dumps(self.as_dict(), ensure_ascii=False).encode())


class Record:
    """The notes of one request."""

    def __init__(self, number: int, records: "Records") -> None:
        self.number = number
        self.request_id: str | None = None
        self.notes: list[Note] = []
        self.dropped = 0
        self.has_ended = False
        self.listeners: set[Callable[[], None]] = set()
        self._records = records
        self._began = 0.0

    def name(self, request_id: str) -> None:
        """Give the record its request's id, by which it can be read from now on."""
        if self.request_id is None:
            self.request_id = request_id
            self._records.keep(self)

    def write(
        self, direction: Direction, type: str, content: bytes = b"", size: int | None = None, more: bool | None = None
    ) -> None:
        """Note a message, and call the listeners. `size` is for content that is only a part of the message.

        A note that cannot be made is missing; the message passes.
        """
        try:
            self._write(direction, type, content, size, more)
        except Exception:
            log.exception("A message could not be noted")

    def _write(self, direction: Direction, type: str, content: bytes, size: int | None, more: bool | None) -> None:
        if len(self.notes) >= self._records.max_notes:
            self.dropped += 1
            return
        now = time.perf_counter()
        if not self.notes:
            self._began = now
        t_ms = round(1e3 * (now - self._began), 3)
        head = text_of(content, self._records.head_bytes)
        note = Note(len(self.notes), t_ms, direction, type, len(content) if size is None else size, head, more)
        self.notes.append(note)
        self._records.show(self.number, note)
        self._call_listeners()

    def end(self) -> None:
        self.has_ended = True
        self._call_listeners()

    def saved(self) -> contract.Answer:
        """The whole record as JSON; `dropped` counts the messages that there was no room for."""
        return contract.json_answer(
            200,
            {
                "request_id": self.request_id,
                "ended": self.has_ended,
                "dropped": self.dropped,
                "messages": [note.as_dict() for note in self.notes],
            },
        )

    def _call_listeners(self) -> None:
        for listener in list(self.listeners):
            listener()


class Records:
    """The records that are kept, the newest last."""

    def __init__(
        self,
        show: Callable[[int, Note], None] = lambda number, note: None,
        max_requests: int = 20,
        max_notes: int = 5000,
        head_bytes: int = 160,
    ) -> None:
        self.show = show
        self.max_notes = max_notes
        self.head_bytes = head_bytes
        self._max_requests = max_requests
        self._by_id: dict[str, Record] = {}
        self._opened = 0
        self._lock = threading.Lock()

    def open(self, request_id: str | None) -> Record:
        """Begin a record. It can be read once it has a name: the client's own id, if it is valid, or the door's."""
        with self._lock:
            self._opened += 1
            record = Record(self._opened, self)
        if request_id is not None and contract.request_id(request_id) == request_id:
            record.name(request_id)
        return record

    def keep(self, record: Record) -> None:
        assert record.request_id is not None
        with self._lock:
            # The first one stays: who knows an id must not be able to put another record in its place.
            self._by_id.setdefault(record.request_id, record)
            while len(self._by_id) > self._max_requests:
                del self._by_id[next(iter(self._by_id))]

    def answer(self, method: str, path: str, last_event_id: str | None) -> contract.Answer | Record:
        """Answer a request below `PREFIX`, or return a record to send as server-sent events."""
        if method != "GET":
            return contract.dialect(path).refusal(contract.no_such_method(["GET"]))
        name = path.removeprefix(PREFIX)
        if (record := self._by_id.get(name)) is not None:
            # A browser's EventSource asks again when a stream ends. 204 is how it learns that there is no more.
            return record if last_event_id is None else contract.Answer(204, b"")
        if (record := self._by_id.get(name.removesuffix(".json"))) is not None:
            return record.saved()
        return contract.json_answer(404, {"detail": "No transcript of that request is kept"})


def text_of(content: bytes, limit: int) -> str:
    """The first `limit` bytes as text, without a character that the limit would split."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return decoder.decode(content[:limit], final=len(content) <= limit)


SECRET = ("authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key")
MASK = "***"


def head_of(first_line: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """A request's or an answer's head, as it would look on the wire."""
    shown = ((name, MASK if name.lower() in SECRET else value) for name, value in headers)
    lines = [first_line, *(f"{name}: {value}" for name, value in shown)]
    return "\n".join(lines).encode()


def events(notes: Sequence[Note]) -> bytes:
    return b"".join(note.as_event() for note in notes)
