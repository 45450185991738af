"""An HTTP/1.1 client on a raw socket, for what a friendlier client hides: each chunk as the server framed it, the
headers before there is a body, a connection that is closed in the middle.

Source: RFC 9112, sections 4 (status line), 5 (fields) and 7.1 (chunked transfer coding).
"""

import json
import socket
import struct
from collections.abc import Iterator
from typing import Any, Self

from tests.support.asgi_client import PATIENCE, Response, event_of


class Connection:
    """One connection; each request on it is written whole, its answer read piece by piece."""

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Leave without a goodbye: the other side gets a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    # --- Asking -----------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> None:
        """Underscores in the names of `headers` stand for hyphens."""
        fields = {"Host": "localhost"} | {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            fields.setdefault("Content-Length", str(len(body)))
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        self.send("\r\n".join(lines).encode("latin-1") + (body or b""))

    def send_generate(self, prompt: str, stream: bool = True, **fields: Any) -> None:
        body = json.dumps({"prompt": prompt, "stream": stream, **fields}).encode()
        self.send_request("POST", "/generate", body, Content_Type="application/json")

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Response:
        self.send_request(method, path, body, **headers)
        return self.read_response(method)

    # --- Reading ----------------------------------------------------------------------------------------------------

    def read_head(self) -> tuple[int, dict[str, str]]:
        """Status and headers (names in lower case), as soon as they have come."""
        version, status, _ = self._read_line().split(" ", 2)
        assert version == "HTTP/1.1"
        headers: dict[str, str] = {}
        while line := self._read_line():
            name, _, value = line.partition(":")
            assert name.lower() not in headers, f"{name} came twice"
            headers[name.lower()] = value.strip()
        return int(status), headers

    def read_chunk(self) -> bytes:
        """One chunk, exactly as the server framed it; the last one is empty."""
        size = int(self._read_line(), 16)
        chunk = self._read_exactly(size)
        assert self._read_exactly(2) == b"\r\n"
        return chunk

    def chunks(self) -> Iterator[bytes]:
        while chunk := self.read_chunk():
            yield chunk

    def read_event(self) -> dict[str, Any]:
        return event_of(self.read_chunk())

    def read_response(self, method: str = "GET") -> Response:
        """A whole answer, however it is framed."""
        status, headers = self.read_head()
        if headers.get("transfer-encoding") == "chunked":
            body = b"".join(self.chunks())
        else:
            body = b"" if method == "HEAD" else self._read_exactly(int(headers["content-length"]))
        return Response(status, headers, body)

    def has_more(self) -> bool:
        """Whether anything has come that is not read yet."""
        if self._buffer:
            return True
        self.socket.setblocking(False)
        try:
            self._buffer = self.socket.recv(65536)
        except BlockingIOError:
            return False
        finally:
            self.socket.settimeout(PATIENCE)
        return bool(self._buffer)

    def is_closed(self) -> bool:
        """Wait for the server to close the connection; false if it sends something instead."""
        try:
            return not self._buffer and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _read_line(self) -> str:
        while b"\r\n" not in self._buffer:
            self._receive()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line.decode("latin-1")

    def _read_exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._receive()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _receive(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError(f"the server closed the connection; unread: {self._buffer!r}")
        self._buffer += data
