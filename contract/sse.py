"""Server-sent events: how a stream of engine events looks on the wire.

One event is `data: ` and JSON on one line, then an empty line; JSON writes a line break inside a token as `\\n`, so
no token can break a frame. A line that begins with a colon is a comment, which clients skip.

Source: HTML Living Standard, section 9.2, "Server-sent events".
"""

from collections.abc import AsyncIterator

from pydantic_core import to_json

from interface.request import Event, payload

SSE_MEDIA_TYPE = "text/event-stream; charset=utf-8"
SSE_HEADERS = {
    "cache-control": "no-cache, no-transform",  # no cache in between keeps or rewrites it
    "x-accel-buffering": "no",  # nginx passes each event on as it comes
}
HEARTBEAT = b": heartbeat\n\n"
DONE = b"data: [DONE]\n\n"


_OTHER_LINE_ENDS = [(end.encode(), f"\\u{ord(end):04x}".encode()) for end in "\x85\u2028\u2029"]
"""Line ends to many a client (to Python's `splitlines`, say), though not to the standard."""


def frame(event: Event) -> bytes:
    data = to_json(payload(event))
    for raw, escaped in _OTHER_LINE_ENDS:
        data = data.replace(raw, escaped)
    return b"data: " + data + b"\n\n"


async def sse_frames(events: AsyncIterator[Event | None]) -> AsyncIterator[bytes]:
    """A frame per event, a comment for each None (a silence), and `[DONE]` at the end."""
    async for event in events:
        yield HEARTBEAT if event is None else frame(event)
    yield DONE
