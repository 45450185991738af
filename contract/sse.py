"""Server-sent events: how a stream of engine events looks on the wire.

One event is `data: ` and JSON on one line, then an empty line; JSON writes a line break inside a token as `\\n`, so
no token can break a frame. A line that begins with a colon is a comment, which clients skip.

Source: HTML Living Standard, section 9.2, "Server-sent events".
"""

from collections.abc import AsyncIterator

from pydantic_core import to_json

from inference.request import Event, payload

SSE_MEDIA_TYPE = "text/event-stream; charset=utf-8"
SSE_HEADERS = {
    "cache-control": "no-cache, no-transform",  # no cache in between keeps or rewrites it
    "x-accel-buffering": "no",  # nginx passes each event on as it comes
}
HEARTBEAT = b": heartbeat\n\n"
DONE = b"data: [DONE]\n\n"


def frame(event: Event) -> bytes:
    return b"data: " + to_json(payload(event)) + b"\n\n"


async def sse_frames(events: AsyncIterator[Event | None]) -> AsyncIterator[bytes]:
    """A frame per event, a comment for each None (a silence), and `[DONE]` at the end."""
    async for event in events:
        yield HEARTBEAT if event is None else frame(event)
    yield DONE
