"""The HTTP requests that are open, each with its answer: watched, limited, and ended when the server ends.

Invariants:
    - A client that has left is noticed within `TICK` seconds, whatever it has sent after its request.
    - A request that is cut off leaves no connection behind.
    - After `end_all`, no request is open and no connection waits to be read.
"""

import asyncio
import time
from collections.abc import Collection
from contextvars import ContextVar
from typing import Any

import anyio

from config import Config
from serving.asgi import Receive
from serving.connection import Connection, IdleConnections, abort_all
from serving.request_log import RequestLog

TICK = 0.1
"""Seconds between two looks at the open requests' connections."""
GRACE = 0.2
"""Seconds that answers get to be written once the server ends."""


class Exchange:
    """One request and its answer, as they pass."""

    def __init__(self, connection: Connection | None) -> None:
        self.connection = connection
        self.cancel_scope = anyio.CancelScope()
        self.began_at = time.monotonic()
        self.body_bytes = 0
        self.has_body = False
        """Whether the whole body has come."""
        self.has_left = False
        self.status: int | None = None
        """Of the answer, once it has begun."""
        self.is_complete = False
        self.log: RequestLog | None = None
        """Of its generation, if it asks for one."""

    @property
    def age(self) -> float:
        return time.monotonic() - self.began_at

    def look(self) -> None:
        """Cancel the work if the client has left without the server noticing."""
        if self.connection is not None and self.has_body and self.connection.has_left():
            self.has_left = True
            self.cancel_scope.cancel()


CURRENT: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


class Exchanges:
    """All open requests of a server, and what it keeps of their connections."""

    def __init__(self, config: Config) -> None:
        self.open: set[Exchange] = set()
        self.protocols: Collection[Any] = ()
        """uvicorn's own set of connections, from the start or once the first request has shown it."""
        self.most = config.max_connections
        self._idle = IdleConnections(config.head_limit)
        self._is_needed = asyncio.Event()

    @property
    def is_full(self) -> bool:
        return max(len(self.open), len(self.protocols)) > self.most

    @property
    def body_bytes(self) -> int:
        """What the bodies that are being read or parsed hold together."""
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

    def on_connection(self) -> None:
        """Look after a connection that may never send a request; make room if it is one too many."""
        self._is_needed.set()
        if len(self.protocols) > self.most:
            self._idle.close_overdue(self.protocols, self.most)

    async def watch(self) -> None:
        """Look at the connections again and again, as long as there are any."""
        next_sweep = time.monotonic()
        while True:
            await self._is_needed.wait()
            for exchange in list(self.open):
                exchange.look()
            if time.monotonic() >= next_sweep:
                next_sweep = time.monotonic() + 1
                self._idle.close_overdue(self.protocols, self.most)
            if not self.open and not self.protocols:
                self._is_needed.clear()
            await anyio.sleep(TICK if self.open else 1)

    async def end_all(self) -> None:
        """Cut off what is still open, and then whatever has not been written."""
        for exchange in list(self.open):
            exchange.cancel_scope.cancel()
        await anyio.sleep(GRACE)
        abort_all(self.protocols)
