"""A short soak with every use and misuse at once: nothing is left behind, and failures would be reported."""

import asyncio
import socket
import struct
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from study.soak.clients import OWN, Tally, Way, ask, behave, tokens_in, write_slowly
from study.soak.findings import Findings, report, table
from tests.support.serving import DOORS

pytestmark = pytest.mark.anyio
LIMIT = 0.05


@pytest.mark.timeout(300)
@pytest.mark.parametrize("door", DOORS)
def test_a_short_soak_holds(door: str) -> None:
    """Sixteen seconds for both doors. Other work on the machine must not matter, so /health gets much longer here."""
    command = [sys.executable, "-m", "study.soak", "--door", door, "--seconds", "8", "--clients", "32"]
    command += ["--health-limit", "2", "--raise-every", "20"]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "BROKEN" not in run.stdout
    assert run.stdout.count("held  ") == 8


REFUSED = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
ACCEPTED = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


async def tally_of(way: Way, answer: bytes, reset: bool) -> Tally:
    """What one client notes of a server that answers when it has a request's head, and then resets or just ends."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            await answered(reader, writer)
        has_answered.set()

    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        if reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        else:
            writer.write_eof()
            await reader.read()

    has_answered, tally = asyncio.Event(), Tally()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        await behave(server.sockets[0].getsockname()[1], tally, {"a client": way})
        await has_answered.wait()
    return tally


async def test_a_slow_writer_that_is_refused_before_its_end_has_had_its_answer() -> None:
    tally = await tally_of(write_slowly, REFUSED, reset=False)
    assert (dict(tally.statuses), tally.unended) == ({"408": 1}, [])


async def test_a_slow_writer_may_be_reset_before_its_end_unless_it_was_accepted() -> None:
    tally = await tally_of(write_slowly, b"", reset=True)
    assert (dict(tally.statuses), tally.unended) == ({"cut off": 1}, [])
    # The reset may overtake an answer's head, so an accepted request counts as such only if its client saw that.
    tally = await tally_of(write_slowly, ACCEPTED, reset=False)
    assert len(tally.unended) == 1


async def test_a_request_that_was_sent_whole_must_not_be_cut_off() -> None:
    tally = await tally_of(ask(OWN["/generate, whole"]), b"", reset=True)
    assert len(tally.unended) == 1


def good() -> Findings:
    left = {"sequences in slots": 0, "files": -1, "tasks": 0}
    return Findings("a server", 600, Tally(tokens=90), [100] * 100, [0.001] * 100, [0.0005] * 100, 100, left, raised=1)


BROKEN = {
    "raised": replace(good(), raised=0),
    "sequences": replace(good(), left={"sequences in slots": 1}),
    "files": replace(good(), left={"files": 1}),
    "tasks": replace(good(), left={"tasks": 1}),
    "terminal event": replace(good(), tally=Tally(unended=["a stream"])),
    "Retry-After": replace(good(), tally=Tally(without_retry_after=1)),
    "/health": replace(good(), health=[0.001] * 98 + [0.051] * 2),
    "memory": replace(good(), memory=[100] * 75 + [103] * 25),
}


def test_the_report_of_a_good_soak_is_one_page() -> None:
    page = report(good(), LIMIT)
    assert "BROKEN" not in page
    assert "10 (10.0%)" in page
    assert len(page.splitlines()) < 50


@pytest.mark.parametrize("what", BROKEN)
def test_each_thing_that_must_hold_can_break(what: str) -> None:
    held = BROKEN[what].held(LIMIT)
    assert [name for name, good in held.items() if not good] == [name for name in held if what in name]
    assert "BROKEN" in report(BROKEN[what], LIMIT)


def test_memory_that_grew_in_the_first_half_has_only_been_warming_up() -> None:
    assert all(replace(good(), memory=[50] * 50 + [100] * 50).held(LIMIT).values())


def test_servers_are_shown_side_by_side() -> None:
    other = replace(good(), name="another", made=None)
    lines = table([good(), other]).splitlines()
    assert lines[0] == "|  | a server | another |"
    assert "| of them wasted | 10 (10.0%) | not told |" in lines
    assert len({line.count("|") for line in lines}) == 1


def test_the_tokens_of_an_answer_are_those_it_reports_or_else_those_it_shows() -> None:
    assert tokens_in(b'data: {"text": "a"}\n\ndata: {"usage": {"completion_tokens": 7}}\n\n') == 7
    assert tokens_in(b'data: {"token":"a","token_id":1}\n\ndata: {"token":"b","token_id":2}\n\n') == 2
