"""The engine's process is restarted when it dies or hangs, and not when it is only slow."""

import asyncio
import errno
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from config import Config
from interface.events import Failed
from serving import engine_keeper, sign_of_life
from serving.engine_keeper import EngineKeeper
from serving.process import CANNOT_LOAD
from serving.sign_of_life import SignsOfLife
from study.common.launcher import children_of, command_line_of
from study.common.scripted_workers import NAME
from tests.support.asgi_client import until
from tests.support.driving import all_events, submit, terminal
from tests.support.serving import wait_until
from tests.support.sharing import working


def keeping(program: str, outcomes: list[int]) -> EngineKeeper:
    return EngineKeeper(["-c", program], 0.1, outcomes.append)


def test_an_engine_that_cannot_be_loaded_is_not_started_again() -> None:
    outcomes: list[int] = []
    keeper = keeping(f"raise SystemExit({CANNOT_LOAD})", outcomes)
    keeper.start()
    wait_until(lambda: outcomes == [CANNOT_LOAD])
    keeper.close()


def test_the_log_says_that_an_engine_was_killed_and_when_that_happens(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A container's limit on memory kills the engine, and leaves no line of its own."""
    monkeypatch.setattr(engine_keeper, "FIRST_PAUSE", 1000.0)
    keeper = keeping(f"import os; os.kill(os.getpid(), {signal.SIGKILL:d})", [])
    keeper.start()
    wait_until(lambda: "has been ended by signal 9, as when memory has run out; the next starts" in caplog.text)
    keeper.close()


def test_an_engine_finds_its_modules_wherever_the_server_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    outcomes: list[int] = []
    keeper = keeping(f"import serving; raise SystemExit({CANNOT_LOAD})", outcomes)
    keeper.start()
    wait_until(lambda: outcomes == [CANNOT_LOAD])
    keeper.close()


PARENT = """
import os, sys, time
os.set_inheritable(int(sys.argv[-1]), True)
if (child := os.fork()) == 0:
    time.sleep(1000)
print(child, file=open({path!r}, "w"), flush=True)
{then}
"""
"""An engine with a process of its own, as vLLM's, which holds the pipe for the signs of life open."""


def child_in(path: Path) -> int:
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), "a child")
    return int(path.read_text())


def test_an_engine_has_ended_though_a_process_goes_on_that_it_has_started(tmp_path: Path) -> None:
    outcomes: list[int] = []
    keeper = keeping(PARENT.format(path=str(tmp_path / "child"), then=f"os._exit({CANNOT_LOAD})"), outcomes)
    keeper.start()
    try:
        wait_until(lambda: outcomes == [CANNOT_LOAD])
    finally:
        os.kill(child_in(tmp_path / "child"), signal.SIGKILL)
        keeper.close()


@pytest.mark.parametrize(
    ("lived", "pauses"),
    [(0.0, ["0.01 s", "0.02 s", "0.04 s", "0.04 s"]), (1.0, ["0.01 s"] * 4)],
    ids=["soon", "after a while"],
)
def test_an_engine_that_dies_is_started_again_after_a_pause_that_grows_if_it_dies_soon(
    lived: float, pauses: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("serving.engine_keeper.FIRST_PAUSE", 0.01)
    monkeypatch.setattr("serving.engine_keeper.LONGEST_PAUSE", 0.04)
    times = itertools.count(0.0, lived)
    monkeypatch.setattr(engine_keeper, "time", SimpleNamespace(monotonic=lambda: next(times)))
    keeper = keeping("raise SystemExit(70)", [])
    keeper.start()
    wait_until(lambda: len(caplog.records) >= 4)
    keeper.close()
    lines = [record.getMessage() for record in caplog.records[:4]]
    assert [line.rpartition("starts in ")[2] for line in lines] == pauses
    threads = [thread for thread in threading.enumerate() if thread.name == "keep the engine"]
    for thread in threads:
        thread.join(20)


def test_an_engine_that_the_system_has_no_room_for_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel has killed an engine for want of memory, and there is none yet for the next one."""
    monkeypatch.setattr("serving.engine_keeper.FIRST_PAUSE", 0.01)
    popen, open_files = subprocess.Popen, Path("/proc/self/fd")
    outcomes: list[int] = []
    counts: list[int] = []
    keeper = keeping("raise SystemExit(-9)", outcomes)

    def without_memory(*arguments: Any, **options: Any) -> Any:
        counts.append(len(list(open_files.iterdir())))
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    keeper.start()
    monkeypatch.setattr(subprocess, "Popen", without_memory)
    wait_until(lambda: caplog.text.count("cannot be started now, and is tried again: [Errno 12]") >= 3)
    assert counts[-1] <= counts[0], "each try closes what it has opened"
    keeper._command = [sys.executable, "-c", f"raise SystemExit({CANNOT_LOAD})"]
    monkeypatch.setattr(subprocess, "Popen", popen)
    wait_until(lambda: outcomes == [CANNOT_LOAD])
    keeper.close()


def test_an_engine_that_does_not_end_is_killed_with_the_processes_it_has_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.engine_keeper.END_SLACK", 0.1)
    start = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])"
    program = f"import signal, subprocess, sys; signal.signal(15, signal.SIG_IGN); {start}.wait()"
    keeper = keeping(program, [])
    keeper.start()
    wait_until(lambda: children_of(keeper._process.pid))
    [child] = children_of(keeper._process.pid)
    keeper.close()
    assert keeper._process.has_ended
    wait_until(lambda: not command_line_of(child))


def test_silence_counts_from_the_first_sign_of_life_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """So an engine may take as long as it needs to load."""
    monkeypatch.setattr(sign_of_life, "INTERVAL", 0.01)
    signs = SignsOfLife()
    silences = []
    for written in (b"", b"", b".", b"", b"", b"..", b""):
        os.write(signs.writer, written)
        assert signs.listen()
        silences.append(signs.silence)
    assert silences == [0, 0, 0, 0.01, 0.02, 0, 0.01]
    os.close(signs.writer)
    assert not signs.listen()
    signs.close()


@pytest.mark.anyio
async def test_a_keeper_that_reads_no_signs_of_life_does_not_stop_the_loop_that_sends_them() -> None:
    signs = SignsOfLife()
    os.set_blocking(signs.writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(signs.writer, bytes(65536))
    os.set_blocking(signs.writer, True)
    sending = asyncio.create_task(sign_of_life.send_signs_of_life(signs.writer))
    await asyncio.sleep(0)  # in which it writes one, and would wait for ever
    assert not sending.done()
    sending.cancel()
    os.close(signs.writer)
    signs.close()


@pytest.fixture
def keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineKeeper]:
    """Keeps a scripted engine, whose steps may take a second."""
    monkeypatch.setattr("serving.engine_keeper.FIRST_PAUSE", 0.01)
    monkeypatch.setenv("ENGINE_SOCKET", str(tmp_path / "engine.sock"))
    monkeypatch.setenv("ENGINE_STEP_LIMIT", "1")
    keeper = EngineKeeper(["-m", NAME, "engine"], 0.1, lambda status: None)
    keeper.start()
    yield keeper
    keeper.close()


@pytest.mark.anyio
async def test_an_engine_that_hangs_is_replaced_and_its_requests_are_told(
    keeper: EngineKeeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with working(tmp_path / "engine.sock", Config(step_limit=1.0)) as driver:
        stream = await submit(driver, "drip 4000", max_tokens=4000)
        await until(lambda: driver.counters().running == 1)
        os.kill(keeper._process.pid, signal.SIGSTOP)
        monkeypatch.setattr(engine_keeper, "SILENCE_LIMIT", 1.0)
        await until(lambda: "shown no sign of life for 1 s and is killed; the next starts in 0.01 s" in caplog.text)
        monkeypatch.setattr(engine_keeper, "SILENCE_LIMIT", 120.0)
        assert terminal(await all_events(stream)) == Failed("engine lost: its process has ended", "engine_error")
        await until(lambda: driver.status == "ok", "another engine")


@pytest.mark.anyio
async def test_an_engine_whose_step_never_ends_is_replaced_and_its_requests_are_told(
    keeper: EngineKeeper, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with working(tmp_path / "engine.sock", Config(step_limit=1.0)) as driver:
        end = terminal(await all_events(await submit(driver, "pace=100000")))
        assert isinstance(end, Failed)
        assert "a step has taken longer than 1 s (ENGINE_STEP_LIMIT)" in end.message
        await until(lambda: driver.status == "ok", "another engine")
    assert "has ended with status 70" in caplog.text
