"""The standard library's WSGI server, with time limits for its clients; `python raw_wsgi.py` runs it.

Without limits, a connection without a request, as browsers open them in advance, would block all other clients of a
server that answers one request at a time.
"""

from contextlib import suppress
from io import BufferedIOBase
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import WSGIEnvironment

from config import ClientSettings


class ThreadingWSGIServer(ThreadingMixIn, WSGIServer):
    """The standard library's server, with a thread for each connection."""

    daemon_threads = True


class PatientHandler(WSGIRequestHandler):
    """One connection. Each wait for its client has a limit; then the connection is closed."""

    head_limit: float
    body_limit: float
    stall: float

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.head_limit)
        self.wfile = _Writer(self.wfile, self.connection, self.stall)  # type: ignore[assignment]

    def handle(self) -> None:
        with suppress(TimeoutError, ConnectionError):  # the client has left, or says nothing
            super().handle()

    def get_environ(self) -> WSGIEnvironment:
        """The request's head has come."""
        self.connection.settimeout(self.body_limit)
        return super().get_environ()


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
