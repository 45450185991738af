"""The client's connection below an ASGI request: what the specification has no word for, where the server offers it.

An ASGI application can neither close a connection nor hear of anything while the server reads nothing. uvicorn stops
reading once a byte has come after the request, so that it no longer hears the client leave; and it closes a
connection only after everything has been written, which a client that does not read prevents. Both are mended here
through the transport that uvicorn's `receive` belongs to. Under a server that offers none, `Connection.of` returns
None, and its own limits must do (`docs/operations.md`).
"""

import select
import signal
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Any

HUNG_UP: int | None = getattr(select, "POLLRDHUP", None)
TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Connection:
    """One client's connection to uvicorn."""

    @classmethod
    def of(cls, receive: Any) -> "Connection | None":
        """The connection that a server's `receive` belongs to, if it lets us have it."""
        cycle = getattr(receive, "__self__", None)
        if not all(hasattr(cycle, name) for name in ("transport", "flow")):
            return None
        return cls(cycle)

    def __init__(self, cycle: Any) -> None:
        self._cycle = cycle
        self._transport = cycle.transport
        self._flow = cycle.flow

    @property
    def protocols(self) -> Collection[Any] | None:
        """All connections that the server has open, as the set that it keeps itself."""
        found: Collection[Any] | None = getattr(self._transport.get_protocol(), "connections", None)
        return found

    @property
    def loses_bodies(self) -> bool:
        """Whether the body of a request that offers another protocol is lost: uvicorn's parser on httptools does."""
        return "httptools" in type(self._cycle).__module__

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return bool(self._transport.is_closing())

    def has_left(self) -> bool:
        """Whether the client has closed its end, also while the server does not read. Costs nothing while it does."""
        if self.is_closed:
            return True
        return bool(self._flow.read_paused) and has_hung_up(self._transport)

    def abort(self) -> None:
        """Close the connection at once, whatever has not been written."""
        self._transport.abort()
        self._cycle.disconnected = True  # with httptools, uvicorn tells only the last of several requests


def has_hung_up(transport: Any) -> bool:
    """Ask the kernel whether the other end has been closed, without reading what came before that."""
    if HUNG_UP is None:
        return False
    poller = select.poll()
    with suppress(OSError, ValueError):  # closed in this moment
        poller.register(transport.get_extra_info("socket").fileno(), HUNG_UP)
        return bool(poller.poll(0))
    return True


class IdleConnections:
    """Closes the connections that send no request, or only a part of its head: the slowest way to use up a server."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._idle_since: dict[Any, float] = {}

    def close_overdue(self, protocols: Collection[Any], most: int) -> None:
        """Close those without a request for too long; of those without one, all that are more than `most` in sum."""
        now = time.monotonic()
        idle = [protocol for protocol in protocols if not is_busy(protocol)]
        self._idle_since = {protocol: self._idle_since.get(protocol, now) for protocol in idle}
        overdue = {protocol for protocol, since in self._idle_since.items() if now - since > self._patience(protocol)}
        oldest = sorted(self._idle_since, key=self._idle_since.__getitem__)
        for protocol in overdue.union(oldest[: max(0, len(protocols) - most)]):
            self._close(protocol)

    def _patience(self, protocol: Any) -> float:
        """After an answer, the server's own limit comes first; a client that drips bytes keeps setting it back."""
        kept_alive = float(getattr(protocol, "timeout_keep_alive", 0)) if protocol.cycle is not None else 0.0
        return self._limit + kept_alive

    def _close(self, protocol: Any) -> None:
        self._idle_since.pop(protocol)
        if not protocol.transport.is_closing():
            protocol.transport.write(TIMED_OUT)
            protocol.transport.close()
        else:
            protocol.transport.abort()


def is_busy(protocol: Any) -> bool:
    """Whether a request is being answered. A WebSocket has no cycle, and is refused by the doors at once."""
    cycle = getattr(protocol, "cycle", None)
    return cycle is not None and not cycle.response_complete


def abort_all(protocols: Collection[Any]) -> None:
    for protocol in list(protocols):
        protocol.transport.abort()


def running_server() -> Any:
    """The uvicorn server that runs this application, known by its signal handler; None under any other server."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return server if hasattr(server, "server_state") and hasattr(server, "config") else None
