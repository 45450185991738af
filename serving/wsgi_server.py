"""The standard library's WSGI server, with limits for its clients; `python raw_wsgi.py` runs it.

Without time limits, a connection without a request, as browsers open them in advance, would block all other clients of
a server that answers one request at a time. And with room for five connections that are not accepted yet, the standard
library's default, the kernel drops most of those that come at once; their clients' kernels try again after 1, 3, 7, 15,
31 seconds.
"""

import logging
import socket
import sys
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from io import BufferedIOBase
from socketserver import ThreadingMixIn
from typing import Any, TextIO, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import WSGIEnvironment

import contract
from config import ClientSettings
from interface.errors import QueueFull
from serving.file_limit import raise_file_limit
from serving.log_stream import without_waiting

log = logging.getLogger("engine")

BACKLOG = 1024
"""Connections that the kernel keeps until they are accepted."""
MOST_READ = 64 * 1024
"""Bytes that are read at once and dropped."""
LINGER, PAUSE = 5.0, 0.5
"""Seconds for which a closing connection is read, in all and until the next piece."""
MOST_LINGERING = 64
"""Connections that are read at once while they close."""


class OneByOneWSGIServer(WSGIServer):
    """The standard library's server, which answers one connection after the other, with room for those that wait."""

    request_queue_size = BACKLOG

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._may_linger = threading.Semaphore(MOST_LINGERING)

    def linger(self, connection: socket.socket) -> None:
        """Call `drop_rest` on a thread of its own, since the next connection must not wait for this one's client.

        Raises:
            OSError: the process may open no more files.
        """
        still_open = connection.dup()  # the server closes its own
        if not self._may_linger.acquire(blocking=False):
            still_open.close()
            return

        def drop_and_close() -> None:
            with still_open:
                drop_rest(still_open)
            self._may_linger.release()

        try:
            threading.Thread(target=drop_and_close, daemon=True).start()
        except RuntimeError:  # the system has no thread to spare
            still_open.close()
            self._may_linger.release()


class ThreadingWSGIServer(ThreadingMixIn, OneByOneWSGIServer):
    """The same with a thread for each connection, up to `max_open` of them. One more is answered with a 503."""

    daemon_threads = True
    max_open = ClientSettings.max_connections

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._free = threading.Semaphore(self.max_open)

    def linger(self, connection: socket.socket) -> None:
        drop_rest(connection)  # this is the connection's own thread

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin a thread for the connection, or refuse it."""
        if not self._free.acquire(blocking=False):
            self._refuse(request, f"Expected at most {self.max_open} connections at once (ENGINE_MAX_CONNECTIONS)")
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError as error:  # the system has no thread to spare
            self._free.release()
            self._refuse(request, f"The server has no thread for this request: {error}")

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def _refuse(self, request: Any, reason: str) -> None:
        """Answer on the accepting thread, which must wait for no client, so without looking at the request."""
        request.settimeout(0)
        with suppress(OSError):
            request.recv(MOST_READ)  # closing a socket with unread bytes resets the connection, and may lose the answer
        with suppress(OSError):
            request.sendall(_raw(contract.dialect("/").refusal(QueueFull(reason))))
        self.shutdown_request(request)


def _raw(answer: contract.Answer) -> bytes:
    """An answer's bytes, for a connection that has no handler."""
    answer = answer.for_request(contract.request_id(None))
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}", "connection: close"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1") + answer.body


def server_class(config: ClientSettings, address: str, threads: bool) -> type[WSGIServer]:
    """Return a server's class for an address of either family, with the limits of these settings."""
    own = {"address_family": socket.AF_INET6 if ":" in address else socket.AF_INET}
    if not threads:
        return type("Server", (OneByOneWSGIServer,), own)
    return type("Server", (ThreadingWSGIServer,), own | {"max_open": raise_file_limit(config.max_connections)})


class PatientHandler(WSGIRequestHandler):
    """One connection. Each wait for its client has a limit; then the connection is closed."""

    head_limit: float
    body_limit: float
    stall: float
    is_sending = False
    """Whether the client announces a body that is not read; it then sends it after the answer, too."""

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.head_limit)
        self.wfile = _Writer(self.wfile, self.connection, self.stall)  # type: ignore[assignment]

    def handle(self) -> None:
        with suppress(TimeoutError, ConnectionError):  # the client has left, or says nothing
            super().handle()
        with suppress(OSError):
            self._end()

    def log_message(self, format: str, *arguments: Any) -> None:
        """A line of the log. The standard library's own way writes to stderr, and waits until that is read."""
        line = (format % arguments).encode("unicode_escape").decode()  # a terminal obeys what clients may send
        log.info("%s - %s", self.address_string(), line)

    def get_stderr(self) -> TextIO:
        """The request's `wsgi.errors`."""
        return cast(TextIO, without_waiting(sys.stderr))

    def get_environ(self) -> WSGIEnvironment:
        """The request's head has come."""
        self.connection.settimeout(self.body_limit)
        environ = super().get_environ()
        try:
            contract.announced_bytes(environ.get("CONTENT_LENGTH"))
        except contract.Refusal:  # too many, which the door will not read
            self.is_sending = True
        return environ

    def _end(self) -> None:
        """End the answer. The connection is closed when nothing more has come, or after a while."""
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(0)
        if self.is_sending or self.connection.recv(MOST_READ):
            assert isinstance(self.server, OneByOneWSGIServer)
            self.server.linger(self.connection)


def drop_rest(connection: socket.socket) -> None:
    """Read and drop what a client still sends, for a while.

    Closing a connection with unread bytes resets it, and a client that is still sending may then lose the answer.
    """
    until = time.monotonic() + LINGER
    with suppress(OSError):
        connection.settimeout(PAUSE)
        while connection.recv(MOST_READ) and time.monotonic() < until:
            pass


class _Writer:
    """The file that an answer is written to. If the client does not read, it raises as if the client had left."""

    def __init__(self, file: BufferedIOBase, connection: Any, stall: float) -> None:
        self._file = file
        self._connection = connection
        self._stall = stall

    def write(self, data: bytes) -> int:
        self._connection.settimeout(self._stall)
        try:
            return self._file.write(data)
        except TimeoutError as error:
            raise BrokenPipeError(f"the client has read nothing for {self._stall:g} s") from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def handler_of(config: ClientSettings) -> type[WSGIRequestHandler]:
    """Return a handler class with the limits of these settings."""
    limits = {"head_limit": config.head_limit, "body_limit": config.body_limit, "stall": config.stall}
    return type("Handler", (PatientHandler,), limits)
