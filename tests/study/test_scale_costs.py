"""The replicas' streams are read chunk by chunk, and as strictly as HTTP requires."""

import asyncio

import pytest

from study.scale.__main__ import PARTS, parts_of
from study.scale.client import Outcome, generation
from study.scale.costs import events_in, unchunked

DONE = b'data: {"finish_reason":"stop"}\n\ndata: [DONE]\n\n'


def test_an_event_that_is_cut_by_a_chunks_end_is_one_event() -> None:
    pieces = (b'data: {"t', b'oken":"a"}\n\ndata: {"', b'token":"b"}\n\nd')
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))
    assert unchunked(body) == b"".join(pieces)
    assert events_in(unchunked(body)) == 2


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Outcome(0.0), "not connected"),
        (Outcome(0.0, status=503, is_complete=True), "refused 503"),
        (Outcome(0.0, status=200, body=bytearray(DONE), is_complete=True), "finished"),
        (Outcome(0.0, status=200, body=bytearray(DONE)), "cut off"),
        (Outcome(0.0, status=200, body=bytearray(b'data: {"error":{}}\n\n'), is_complete=True), "told of an error"),
        (
            Outcome(0.0, status=200, body=bytearray(b'data: {"token":"a"}\n\n'), is_complete=True),
            "ended without a last event",
        ),
    ],
)
def test_what_a_client_saw_has_a_name(outcome: Outcome, kind: str) -> None:
    assert outcome.kind == kind


@pytest.mark.parametrize(("ending", "kind"), [(b"", "cut off"), (b"0\r\n\r\n", "ended without a last event")])
def test_a_server_that_goes_away_is_noticed_by_its_answer(ending: bytes, kind: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b'15\r\ndata: {"token":"a"}\n\n\r\n' + ending)
        await writer.drain()
        writer.close()

    async def ask() -> Outcome:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            return await generation(server.sockets[0].getsockname()[1], "hello").run()

    outcome = asyncio.run(ask())
    assert outcome.kind == kind
    assert len(outcome.events_at) == 1


def test_a_command_line_without_parts_asks_for_all() -> None:
    assert parts_of([]) == list(PARTS)
    assert parts_of(["chaos", "costs"]) == ["chaos", "costs"]


def test_an_unknown_part_is_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parts_of(["speed"])
    assert "error: expected parts of costs, growth, chaos, got speed" in capsys.readouterr().err
