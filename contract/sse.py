"""Server-sent events: how a stream of engine events looks on the wire.

One event is `data: ` and JSON on one line, then an empty line. JSON writes a line break inside a token as `\\n`, so
no token can break a frame. A line that begins with a colon is a comment, which clients skip.

Source: HTML Living Standard, section 9.2, "Server-sent events".
"""

from collections.abc import AsyncIterator, Iterator
from json.encoder import encode_basestring
from time import monotonic
from typing import Any, Protocol

from contract.answers import SAFE_HEADERS, id_headers, to_json
from contract.endpoints import Writer
from interface.events import Event

SSE_MEDIA_TYPE = "text/event-stream; charset=utf-8"
SSE_HEADERS = SAFE_HEADERS | {
    "content-type": SSE_MEDIA_TYPE,
    "cache-control": "no-cache, no-transform",  # no cache in between keeps or rewrites it
    "x-accel-buffering": "no",  # nginx passes each event on as it comes
}
HEARTBEAT = b": heartbeat\n"
"""One line end: with a blank line after it, some clients take it for an event, and parse nothing as JSON."""
DONE = b"data: [DONE]\n\n"

_OTHER_LINE_ENDS = [(end.encode(), f"\\u{ord(end):04x}".encode()) for end in "\x85\u2028\u2029"]
"""Line ends to many clients (to Python's `splitlines`, for example), though not to the standard."""


def stream_headers(request_id: str) -> dict[str, str]:
    """All headers of a stream."""
    return SSE_HEADERS | id_headers(request_id)


def frame(content: Any, event: str | None = None) -> bytes:
    """Return one event; fields of `content` that are None are left out."""
    return data_frame(to_json(content), event)


class Typed(Protocol):
    """The content of an event that is called by its type, as in Anthropic's API and OpenAI's Responses."""

    @property
    def type(self) -> str: ...


def typed_frame(content: Typed) -> bytes:
    return frame(content, content.type)


def data_frame(data: bytes, event: str | None) -> bytes:
    """Return one event whose data is already JSON."""
    name = b"" if event is None else b"event: " + event.encode() + b"\n"
    return name + b"data: " + _on_one_line(data) + b"\n\n"


class FrameTemplate:
    """A frame in which only a text, and maybe a number before it, changes from event to event.

    Nearly all frames of a stream are like that, and serializing each from its types would take ten times as long. So
    one is serialized with the placeholders `TEXT` (and `NUMBER`), which are then filled in for each token.
    """

    TEXT = "0b7c1f52-9d3e-4a68-8f15-c2d6e4a97b30"
    NUMBER = 5_871_290_346_172_904_318

    def __init__(self, frame: bytes) -> None:
        template = frame.replace(b"%", b"%%").replace(b"%d" % self.NUMBER, b"%d")
        self._template = template.replace(f'"{self.TEXT}"'.encode(), b"%b")

    def fill(self, text: str) -> bytes:
        return self._template % _json(text)

    def fill_numbered(self, number: int, text: str) -> bytes:
        return self._template % (number, _json(text))


def _json(text: str) -> bytes:
    return _on_one_line(encode_basestring(text).encode())


def _on_one_line(data: bytes) -> bytes:
    if not data.isascii():
        for raw, escaped in _OTHER_LINE_ENDS:
            data = data.replace(raw, escaped)
    return data


async def frames(writer: Writer, events: AsyncIterator[Event | None], heartbeat: float) -> AsyncIterator[bytes]:
    """Yield the bytes of each event as it comes; None is a silence.

    An event without bytes yields nothing, unless nothing has been sent for `heartbeat` seconds: then it yields what a
    silence does. A call that is sent once it is whole, or reasoning that is not shown, must not look like a connection
    that hangs.
    """
    if start := writer.start():
        yield start
    written_at = monotonic()
    async for event in events:
        if written := _bytes_of(event, writer, written_at + heartbeat):
            yield written
            written_at = monotonic()
    if end := writer.end():
        yield end


def blocks(writer: Writer, events: Iterator[Event | None], heartbeat: float) -> Iterator[bytes]:
    """The same as `frames`, for a door without an event loop."""
    if start := writer.start():
        yield start
    written_at = monotonic()
    for event in events:
        if written := _bytes_of(event, writer, written_at + heartbeat):
            yield written
            written_at = monotonic()
    if end := writer.end():
        yield end


def _bytes_of(event: Event | None, writer: Writer, silent_until: float) -> bytes:
    """The bytes of an event; those of a silence if it has none and `silent_until` is over."""
    if event is None:
        return writer.silence()
    return writer.event(event) or (writer.silence() if monotonic() >= silent_until else b"")
