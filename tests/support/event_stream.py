"""The part that the fake servers share: chunks as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import StreamingResponse


def event_stream(chunks: AsyncIterator[dict[str, Any]], on_left: Callable[[], None]) -> StreamingResponse:
    """An answer of an event for each chunk, and `[DONE]`; `on_left` is called if its client leaves before that."""
    return StreamingResponse(_frames(chunks, on_left), media_type="text/event-stream")


async def _frames(chunks: AsyncIterator[dict[str, Any]], on_left: Callable[[], None]) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"
        yield b"data: [DONE]\n\n"
    except asyncio.CancelledError:
        on_left()
        raise
