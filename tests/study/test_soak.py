"""A short soak: every way to use and misuse the server at once, and nothing is left behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.serving import DOORS


@pytest.mark.timeout(300)
@pytest.mark.parametrize("door", DOORS)
def test_a_short_soak_holds(door: str) -> None:
    command = [sys.executable, "-m", "study.soak", "--door", door, "--seconds", "15", "--clients", "32"]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "BROKEN" not in run.stdout
    assert run.stdout.count("held  ") == 5
