"""A short soak with every use and misuse at once: nothing is left behind, and failures would be reported."""

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from study.soak.clients import Tally, behave, tokens_in, write_slowly
from study.soak.findings import Findings, report, table
from tests.support.serving import DOORS

pytestmark = pytest.mark.anyio
LIMIT = 0.05


@pytest.mark.timeout(300)
@pytest.mark.parametrize("door", DOORS)
def test_a_short_soak_holds(door: str) -> None:
    """Thirty seconds for both doors. Other work on the machine must not matter, so /health gets much longer here."""
    command = [sys.executable, "-m", "study.soak", "--door", door, "--seconds", "15", "--clients", "32"]
    command += ["--health-limit", "2"]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "BROKEN" not in run.stdout
    assert run.stdout.count("held  ") == 7


async def test_a_slow_writer_that_is_refused_before_its_end_has_had_its_answer() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    tally = Tally()
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        await behave(server.sockets[0].getsockname()[1], tally, {"a slow writer": write_slowly})
    assert (dict(tally.statuses), tally.unended) == ({"408": 1}, [])


def good() -> Findings:
    left = {"sequences in slots": 0, "files": -1, "tasks": 0}
    return Findings("a server", 600, Tally(tokens=90), [100] * 100, [0.001] * 100, [0.0005] * 100, 100, left)


BROKEN = {
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
