"""Ctrl-C while a program starts: no traceback, and the program has ended by that signal."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from study.common.launcher import ROOT, running
from study.common.scripted_workers import NAME
from tests.support.asgi_client import PATIENCE

PROGRAMS = {
    "app": ["app.py"],
    "raw_asgi": ["raw_asgi.py"],
    "raw_wsgi": ["raw_wsgi.py"],
    "demo": ["app.py", "--demo"],
    "workers": ["app.py", "--workers", "2"],
    "engine's process": ["-m", "serving.engine_process", "--socket", "unused"],
    "three servers": ["-m", "study.three_servers"],
    "check": ["-m", "inference.check"],
    "a program of a lesson": ["lessons/04_next_in_an_executor.py"],
}
INTERRUPTED = "import signal\nsignal.raise_signal(signal.SIGINT)\nraise SystemExit('it went on')"
HELD = """
import sys, time
if "--multiprocessing-fork" in sys.orig_argv:
    print("a worker begins", flush=True)
    time.sleep(600)
"""
"""As `sitecustomize`, holds a worker of multiprocessing before its first import."""


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_that_is_interrupted_in_its_imports_ends_without_a_word(program: str, tmp_path: Path) -> None:
    for module in ("pydantic", "torch", "anyio"):  # each program imports one of them, the doors after a while
        (tmp_path / f"{module}.py").write_text(INTERRUPTED)
    ended = subprocess.run(
        [sys.executable, *PROGRAMS[program]],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        timeout=10 * PATIENCE,
        check=False,
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == (b"", b"", -signal.SIGINT)


def test_what_is_ignored_in_the_background_of_a_shell_stays_ignored(tmp_path: Path) -> None:
    (tmp_path / "pydantic.py").write_text(INTERRUPTED)
    command = ["sh", "-c", 'trap "" INT; "$0" app.py', sys.executable]
    environ = os.environ | {"PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, timeout=10 * PATIENCE, check=False)
    assert ended.stderr == b"it went on\n"


def test_workers_that_are_interrupted_before_they_serve_end_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HELD)
    with running(["-m", NAME, "app", "--workers", "2"], {"PYTHONPATH": str(tmp_path)}) as process:
        process.wait_for(lambda: process.log.count("a worker begins") == 2)
        process.interrupt_all()
        assert process.wait() == -signal.SIGINT
        assert "Traceback" not in process.log, process.log
