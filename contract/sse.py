"""Server-sent events: how a stream of engine events looks on the wire.

One event is `data: ` and JSON on one line, then an empty line. JSON writes a line break inside a token as `\\n`, so
no token can break a frame. A line that begins with a colon is a comment, which clients skip.

Source: HTML Living Standard, section 9.2, "Server-sent events".
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any

from contract.answers import SAFE_HEADERS, to_json
from contract.endpoints import Writer
from interface.events import Event

SSE_MEDIA_TYPE = "text/event-stream; charset=utf-8"
SSE_HEADERS = SAFE_HEADERS | {
    "cache-control": "no-cache, no-transform",  # no cache in between keeps or rewrites it
    "x-accel-buffering": "no",  # nginx passes each event on as it comes
}
HEARTBEAT = b": heartbeat\n"
"""One line end: with a blank line after it, some clients take it for an event, and parse nothing as JSON."""
DONE = b"data: [DONE]\n\n"

_OTHER_LINE_ENDS = [(end.encode(), f"\\u{ord(end):04x}".encode()) for end in "\x85\u2028\u2029"]
"""Line ends to many clients (to Python's `splitlines`, for example), though not to the standard."""


def frame(content: Any, event: str | None = None) -> bytes:
    """Return one event; fields of `content` that are None are left out."""
    return data_frame(to_json(content), event)


def data_frame(data: bytes, event: str | None = None) -> bytes:
    """Return one event whose data is JSON already."""
    if not data.isascii():
        for raw, escaped in _OTHER_LINE_ENDS:
            data = data.replace(raw, escaped)
    name = b"" if event is None else b"event: " + event.encode() + b"\n"
    return name + b"data: " + data + b"\n\n"


async def frames(writer: Writer, events: AsyncIterator[Event | None]) -> AsyncIterator[bytes]:
    """Yield what a writer makes of each event as it comes, and of each silence (None)."""
    if start := writer.start():
        yield start
    async for event in events:
        if written := writer.silence() if event is None else writer.event(event):
            yield written
    if end := writer.end():
        yield end


def blocks(writer: Writer, events: Iterator[Event | None]) -> Iterator[bytes]:
    """The same as `frames` for a door that is pulled."""
    if start := writer.start():
        yield start
    for event in events:
        if written := writer.silence() if event is None else writer.event(event):
            yield written
    if end := writer.end():
        yield end
