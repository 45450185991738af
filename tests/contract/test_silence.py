"""Streams whose events have no bytes to send for a while still say that they are there."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

import contract
from interface.events import Event, Part, TextPart, Token

THOUGHT = (TextPart("reasoning", "hm"),)
"""The parts of a token that is reasoning."""
HELD: tuple[Part, ...] = ()
"""The parts of a token that is held back until a call is whole."""
HELLO = [{"role": "user", "content": "hello"}]
OMITTED = {"type": "adaptive", "display": "omitted"}
COMMENT = b": heartbeat\n"
PING = b'event: ping\ndata: {"type":"ping"}\n\n'
SILENT = [
    ("/v1/chat/completions", {"messages": HELLO, "include_reasoning": False}, THOUGHT, COMMENT),
    ("/v1/chat/completions", {"messages": HELLO}, HELD, COMMENT),
    ("/v1/responses", {"input": HELLO}, HELD, COMMENT),
    ("/v1/messages", {"messages": HELLO, "max_tokens": 9, "thinking": OMITTED}, THOUGHT, PING),
    ("/v1/messages", {"messages": HELLO, "max_tokens": 9, "compaction": {"type": "summarize"}}, THOUGHT, PING),
    ("/v1/messages", {"messages": HELLO, "max_tokens": 9}, HELD, PING),
]
"""Requests, the parts of tokens of which their streams send nothing, and what they send in a silence."""


def from_loop(writer: contract.Writer, events: Sequence[Event | None], heartbeat: float) -> list[bytes]:
    async def coming() -> AsyncIterator[Event | None]:
        for event in events:
            yield event

    async def collected() -> list[bytes]:
        return [frame async for frame in contract.frames(writer, coming(), heartbeat)]

    return asyncio.run(collected())


def blocking(writer: contract.Writer, events: Sequence[Event | None], heartbeat: float) -> list[bytes]:
    return list(contract.blocks(writer, iter(events), heartbeat))


@pytest.fixture(params=SILENT)
def silent(request: pytest.FixtureRequest) -> tuple[contract.Writer, list[Event], bytes]:
    """The writer of such a stream, its events, and what it writes in a silence."""
    path, fields, parts, silence = request.param
    (endpoint,) = (endpoint for endpoint in contract.ENDPOINTS if (endpoint.path, endpoint.method) == (path, "POST"))
    body = json.dumps(fields | {"stream": True}).encode()
    call = contract.parse(endpoint, contract.Incoming(body, path, models=["m"]))
    assert not isinstance(call, contract.Question)
    events: list[Event] = [Token("", number, 1.0, number == 0, parts=parts) for number in range(3)]
    return call.writer(contract.Accepted("an-id", [1])), events, silence


@pytest.mark.parametrize("written_by", [from_loop, blocking])
def test_a_stream_that_has_written_nothing_for_a_heartbeat_says_that_it_is_there(
    written_by: Callable[..., list[bytes]], silent: tuple[contract.Writer, list[Event], bytes]
) -> None:
    writer, events, silence = silent
    assert written_by(writer, events, heartbeat=0).count(silence) >= 2  # the first token may begin a block


@pytest.mark.parametrize("written_by", [from_loop, blocking])
def test_a_stream_that_has_just_written_does_not_say_that_it_is_there(
    written_by: Callable[..., list[bytes]], silent: tuple[contract.Writer, list[Event], bytes]
) -> None:
    writer, events, silence = silent
    assert silence not in written_by(writer, events, heartbeat=1000)
    assert silence in written_by(writer, [None], heartbeat=1000)
