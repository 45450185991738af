"""The open HTTP requests with their answers: watched, limited, and ended when the server ends.

Invariants:
    - A client that has left is noticed within `TICK` seconds, even if it has sent bytes after its request.
    - When a request is cut off, its connection is closed.
    - After `end_all`, no request and no connection is open.
"""

import asyncio
import time
from collections.abc import Collection
from contextvars import ContextVar
from typing import Any

import anyio

from config import ClientSettings
from serving.asgi import Receive
from serving.connection import Connection, IdleConnections, abort_all, running_server
from serving.file_limit import raise_file_limit
from serving.request_log import RequestLog

TICK = 0.1
"""Seconds between two looks at the open requests' connections."""
LOOK_AGAIN = 0.01
"""Seconds between two looks at the answers that are being sent when the server ends."""
GRACE = 0.2
"""Seconds until the connections are closed, for the last answers to be written."""


class Exchange:
    """One request and its answer."""

    def __init__(self, connection: Connection | None) -> None:
        self.connection = connection
        self.cancel_scope = anyio.CancelScope()
        self.began_at = time.monotonic()
        self.body_bytes = 0
        """Bytes of the body that are held: what has come of it, until `drop_body`."""
        self.has_whole_body = False
        """Whether the whole body has been received, if there is one."""
        self.has_left = False
        self.status: int | None = None
        """The answer's status, once it has begun."""
        self.is_complete = False
        self.pending: asyncio.Task[None] | None = None
        """What must be done before more of the answer is sent."""
        self.key = ""
        """What identifies the API key that it came with; empty if no key is required."""
        self.goes_on_until: asyncio.Future[None] | None = None
        """Done when its generation is over, if that goes on without its client."""
        self.log: RequestLog | None = None
        """The log of its generation, if it has one."""

    @property
    def age(self) -> float:
        return time.monotonic() - self.began_at

    def add_body(self, size: int, more_body: bool) -> None:
        """Note that a piece of the body has come."""
        self.body_bytes += size
        self.has_whole_body = not more_body

    def drop_body(self) -> None:
        """Note that the body is no longer held: it has been parsed, or is refused."""
        self.body_bytes = 0

    def cancel_if_left(self) -> None:
        """Cancel the work if the client has left, which the server may not have noticed."""
        if self.connection is not None and self.has_whole_body and self.connection.has_left():
            self.has_left = True
            self.cancel_scope.cancel()


current_exchange: ContextVar[Exchange | None] = ContextVar("current_exchange", default=None)
"""The exchange that the running task belongs to; None outside a request, or without the gate."""


class Exchanges:
    """All open requests of a server, and its connections."""

    def __init__(self, config: ClientSettings) -> None:
        self.open: set[Exchange] = set()
        self.protocols: Collection[Any] = ()
        """uvicorn's own set of connections, known from the start or from the first request on."""
        self.max_open = config.max_connections
        self._idle = IdleConnections(config.head_limit)
        self._is_needed = asyncio.Event()
        self._making_room: asyncio.Handle | None = None

    def set_up_server(self) -> None:
        """Raise the limit of open files and, under uvicorn, watch its connections from the first one on."""
        self.max_open = raise_file_limit(self.max_open)
        if (server := running_server()) is not None:
            from serving.protocol import set_up  # imports uvicorn, which other servers need not have

            self.protocols = server.server_state.connections
            set_up(server, self.on_connection)

    @property
    def is_full(self) -> bool:
        return max(len(self.open), len(self.protocols)) > self.max_open

    @property
    def body_bytes(self) -> int:
        """The bytes of the bodies of all open requests."""
        return sum(exchange.body_bytes for exchange in self.open)

    def begin(self, receive: Receive) -> Exchange:
        connection = Connection.of(receive)
        if connection is not None:
            self.protocols = connection.protocols or ()
        exchange = Exchange(connection)
        self.open.add(exchange)
        self._is_needed.set()
        return exchange

    def end(self, exchange: Exchange) -> None:
        self.open.discard(exchange)
        if exchange.connection is not None:
            self._idle.begin_again(exchange.connection.protocol)

    def on_connection(self) -> None:
        """Watch a new connection, which may never send a request, and make room if it is one too many.

        Many come at once in a flood, and looking at all connections for each of them would keep the event loop busy.
        """
        self._is_needed.set()
        if len(self.protocols) > self.max_open and self._making_room is None:
            self._making_room = asyncio.get_running_loop().call_soon(self._make_room)

    def _make_room(self) -> None:
        self._making_room = None
        self._idle.close_overdue(self.protocols, self.max_open)

    async def watch(self) -> None:
        """Check the connections at intervals, while there are any."""
        next_sweep = time.monotonic()
        while True:
            await self._is_needed.wait()
            for exchange in list(self.open):
                exchange.cancel_if_left()
            if time.monotonic() >= next_sweep:
                next_sweep = time.monotonic() + 1
                self._idle.close_overdue(self.protocols, self.max_open)
            if not self.open and not self.protocols:
                self._is_needed.clear()
            await anyio.sleep(TICK if self.open else 1)

    async def wait_until_answered(self) -> None:
        """Return when each request that had a generation has its whole answer, which may be sent only after that."""
        while any(exchange.log is not None for exchange in self.open):  # noqa: ASYNC110
            await anyio.sleep(LOOK_AGAIN)

    async def end_all(self) -> None:
        """Cancel all open requests, then close all connections."""
        for exchange in list(self.open):
            exchange.cancel_scope.cancel()
        await anyio.sleep(GRACE)
        abort_all(self.protocols)
