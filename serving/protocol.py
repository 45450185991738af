"""uvicorn's HTTP protocols, changed so that connections take turns: one that sends much does not block the loop.

The kernel hands over received bytes in pieces of up to 256 KiB. If those are chunks of one byte each, parsing a piece
takes up to a second. Here pieces are parsed in slices, those of all connections for at most `TURN` seconds together,
before the loop runs other tasks.

`python app.py` starts uvicorn with `SlicedH11`. If uvicorn was started by its own command (`uvicorn app:app`), its
protocol is replaced by the sliced form of it when the application starts.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from uvicorn.protocols.http.h11_impl import H11Protocol

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError:  # httptools is not installed
    HttpToolsProtocol = None  # type: ignore[assignment, misc]

log = logging.getLogger("engine")

BACKLOG = 128
"""Connections that wait to be accepted, and so the most that are accepted in one turn of the loop."""
SLICE = 512
"""Bytes that are parsed at once: 85 chunks of one byte, or two milliseconds."""
MAX_HEAD = 64 * 1024
SHARE, TURN = 0.0005, 0.002
"""Seconds of parsing in one turn of the loop: of one connection, and of all."""


class Slices:
    """The bytes that the connections of one loop have received and not yet parsed."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Sliced, deque[bytes]] = {}

    def put(self, protocol: "Sliced", data: bytes) -> None:
        if not self._waiting:
            self._loop.call_soon(self._take_turns)
        slices = self._waiting.setdefault(protocol, deque())
        slices.extend(data[start : start + SLICE] for start in range(0, len(data), SLICE))

    def drop(self, protocol: "Sliced") -> None:
        self._waiting.pop(protocol, None)

    def __contains__(self, protocol: "Sliced") -> bool:
        return protocol in self._waiting

    def _take_turns(self) -> None:
        until = time.monotonic() + TURN
        while self._waiting and time.monotonic() < until:
            protocol = next(iter(self._waiting))
            self._parse_share(protocol, self._waiting.pop(protocol))
        if self._waiting:
            self._loop.call_soon(self._take_turns)

    def _parse_share(self, protocol: "Sliced", slices: deque[bytes]) -> None:
        until = time.monotonic() + SHARE
        try:
            while slices and not protocol.is_over:  # it may have closed since its last turn
                protocol.parse(slices.popleft())
                if time.monotonic() >= until:
                    break
        except Exception:
            log.exception("A request could not be parsed")
            protocol.transport.abort()
        if slices and not protocol.is_over:
            self._waiting[protocol] = slices  # behind the others
        else:
            protocol.go_on_reading()


_SLICES: WeakKeyDictionary[asyncio.AbstractEventLoop, Slices] = WeakKeyDictionary()

if TYPE_CHECKING:
    _Protocol = H11Protocol
else:
    _Protocol = object


class Sliced(_Protocol):
    """A protocol of uvicorn whose connections take turns in being parsed. `on_connection` hears of each new one."""

    _has_given_up = False
    """Whether all that comes is dropped, as what followed a request was no request."""

    def __init__(self, *arguments: Any, on_connection: Callable[[], None] | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._on_connection = on_connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._on_connection is not None:
            self._on_connection()

    def data_received(self, data: bytes) -> None:
        if self._has_given_up:
            return
        slices = _SLICES.get(self.loop) or _SLICES.setdefault(self.loop, Slices())
        if self not in slices and len(data) <= SLICE:
            self.parse(data)
            return
        self.transport.pause_reading()
        slices.put(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        if slices := _SLICES.get(self.loop):
            slices.drop(self)
        super().connection_lost(exc)

    def parse(self, data: bytes) -> None:
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Refuse what has come. In the middle of the answer to an earlier request, whose client would take the refusal
        for a part of it, only close the connection after that answer.
        """
        if not self._is_answering:
            super().send_400_response(msg)
            return
        self._has_given_up = True
        self.cycle.keep_alive = False

    @property
    def _is_answering(self) -> bool:
        """Whether a whole request is being answered, or any whose answer has begun."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        is_behind_another = bool(getattr(self, "pipeline", ()))  # of httptools; h11 does not read it yet
        return is_behind_another or self.cycle.response_started or not self.cycle.more_body

    @property
    def is_over(self) -> bool:
        """Whether the rest of what has come is not parsed: the connection closes, or is a WebSocket's from here on."""
        is_closing = self._has_given_up or bool(self.transport.is_closing())
        return is_closing or self.transport.get_protocol() is not self

    def go_on_reading(self) -> None:
        """Read on, unless uvicorn waits for the application to take what has come."""
        if not self.flow.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()


class SlicedH11(Sliced, H11Protocol):
    """uvicorn's protocol on h11."""


SLICED: dict[Any, type] = {H11Protocol: SlicedH11, SlicedH11: SlicedH11}

if HttpToolsProtocol is not None:

    class SlicedHttpTools(Sliced, HttpToolsProtocol):  # type: ignore[misc]
        """uvicorn's protocol on httptools, which limits neither a head nor the fields that may follow a body."""

        _unfinished = 0
        """Bytes that have come since a head, a piece of a body or a whole request was complete."""

        def parse(self, data: bytes) -> None:
            self._unfinished += len(data)
            if self._unfinished > MAX_HEAD:
                self.send_400_response(f"Expected a head of at most {MAX_HEAD} bytes.")
            else:
                super().parse(data)

        def on_headers_complete(self) -> None:
            self._unfinished = 0
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._unfinished = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._unfinished = 0
            super().on_message_complete()

    SLICED |= {HttpToolsProtocol: SlicedHttpTools, SlicedHttpTools: SlicedHttpTools}


def set_up(server: Any, on_connection: Callable[[], None]) -> None:
    """Have a uvicorn server that is about to listen parse in slices, tell of connections, and accept few at once."""
    if (kind := SLICED.get(server.config.http_protocol_class)) is not None:
        server.config.http_protocol_class = partial(kind, on_connection=on_connection)
    server.config.backlog = min(server.config.backlog, BACKLOG)
