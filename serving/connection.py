"""Access to the client's connection below an ASGI request, under uvicorn.

An ASGI application cannot close a connection, and learns nothing while the server does not read. uvicorn stops reading
once a byte has come after the request, and then misses that the client leaves; and it closes a connection only after
everything has been written, which a client that does not read prevents. Both are handled here through the transport
that belongs to uvicorn's `receive`. Under any other server `Connection.of` returns None, and only the server's own
limits apply (`docs/operations.md`).
"""

import select
import signal
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Any

HUNG_UP: int | None = getattr(select, "POLLRDHUP", None)
TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
NO_ROOM = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"


class Connection:
    """One client's connection to uvicorn."""

    @classmethod
    def of(cls, receive: Any) -> "Connection | None":
        """Return the connection that a server's `receive` belongs to; None if the server is not uvicorn."""
        cycle = getattr(receive, "__self__", None)
        if not all(hasattr(cycle, name) for name in ("transport", "flow")):
            return None
        return cls(cycle)

    def __init__(self, cycle: Any) -> None:
        self._cycle = cycle
        self._transport = cycle.transport
        self._flow = cycle.flow

    @property
    def protocol(self) -> Any:
        """The server's own object for this connection."""
        return self._transport.get_protocol()

    @property
    def protocols(self) -> Collection[Any] | None:
        """The server's own set of all its open connections."""
        connections: Collection[Any] | None = getattr(self.protocol, "connections", None)
        return connections

    @property
    def loses_bodies(self) -> bool:
        """Whether the server loses the body of a request with an Upgrade header, as uvicorn does with httptools."""
        return "httptools" in type(self._cycle).__module__

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return bool(self._transport.is_closing())

    def has_left(self) -> bool:
        """Whether the client has closed its end. The kernel is only asked while the server does not read."""
        if self.is_closed:
            return True
        return bool(self._flow.read_paused) and has_hung_up(self._transport)

    def abort(self) -> None:
        """Close the connection at once, whatever has not been written; in HTTP/2, only this request's stream."""
        if not hasattr(self._cycle, "abort_stream"):
            self._transport.abort()
        elif not self._cycle.disconnected:
            self._cycle.abort_stream()
        self._cycle.disconnected = True  # of pipelined requests, uvicorn on httptools sets it for the last only


def has_hung_up(transport: Any) -> bool:
    """Ask the kernel whether the other end has been closed, without reading what is in the socket's buffer."""
    if HUNG_UP is None:
        return False
    poller = select.poll()
    with suppress(OSError, ValueError):  # closed in this moment
        poller.register(transport.get_extra_info("socket").fileno(), HUNG_UP)
        return bool(poller.poll(0))
    return True


class IdleConnections:
    """Closes connections that send no request, or only a part of its head, for too long ("slowloris")."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._idle_since: dict[Any, float] = {}

    def close_overdue(self, protocols: Collection[Any], most: int) -> None:
        """Close connections that have been idle too long, and, if there are more than `most`, the oldest idle ones.

        A client whose request is on its way hears the reason: 408, or 503 with a time after which to come back.
        """
        now = time.monotonic()
        idle = [protocol for protocol in protocols if not is_busy(protocol)]
        self._idle_since = {protocol: self._idle_since.get(protocol, now) for protocol in idle}
        overdue = {protocol for protocol, since in self._idle_since.items() if now - since > self._idle_limit(protocol)}
        too_many = len(protocols) - most
        for protocol in overdue:
            self._close(protocol, TIMED_OUT)
        oldest = sorted(self._idle_since, key=self._idle_since.__getitem__)
        for protocol in oldest[: max(0, too_many - len(overdue))]:
            self._close(protocol, NO_ROOM)

    def begin_again(self, protocol: Any) -> None:
        """Note that a request on a connection has ended, so that it was not idle before."""
        self._idle_since.pop(protocol, None)

    def _idle_limit(self, protocol: Any) -> float:
        """Seconds that a connection may be idle. After an answer, uvicorn's keep-alive limit should end it first; but
        each byte from the client restarts that.
        """
        may_have_answered = is_http2(protocol) or getattr(protocol, "cycle", None) is not None  # no WebSocket has one
        kept_alive = float(getattr(protocol, "timeout_keep_alive", 0)) if may_have_answered else 0.0
        return self._limit + kept_alive

    def _close(self, protocol: Any, answer: bytes) -> None:
        self._idle_since.pop(protocol)
        if protocol.transport.is_closing():
            protocol.transport.abort()
        elif is_http2(protocol):
            protocol.shutdown()  # it says so in a frame
        else:
            protocol.transport.write(answer)
            protocol.transport.close()


def is_http2(protocol: Any) -> bool:
    """Whether a connection speaks HTTP/2, as uvicorn's may with `--http zttp --http2`: it then has many cycles."""
    return hasattr(protocol, "cycles")


def is_busy(protocol: Any) -> bool:
    """Whether a request is being answered. A WebSocket has no cycle, and is refused by the doors at once."""
    if is_http2(protocol):
        return bool(protocol.cycles)
    cycle = getattr(protocol, "cycle", None)
    return cycle is not None and not cycle.response_complete


def abort_all(protocols: Collection[Any]) -> None:
    for protocol in list(protocols):
        protocol.transport.abort()


def running_server() -> Any:
    """Return the uvicorn server that runs this application, found through its signal handler; None if there is none."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return server if hasattr(server, "server_state") and hasattr(server, "config") else None
