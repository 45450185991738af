"""Tests that need a browser are never skipped silently."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ONE_TEST = "tests/page/test_page_access.py::test_every_control_has_a_label"


def run_one_test(**environ: str) -> subprocess.CompletedProcess[str]:
    """Run a browser test where no program can be found."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("CI", "REQUIRE_BROWSER", "CHROMIUM")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", ONE_TEST],
        cwd=ROOT,
        env=inherited | {"PATH": ""} | environ,
        capture_output=True,
        text=True,
        timeout=50,
    )


def test_without_a_browser_the_run_says_what_it_leaves_out() -> None:
    run = run_one_test()
    assert run.returncode == 0, run.stdout
    assert "browser tests left out: no chromium; apt-get install chromium" in run.stdout
    assert "1 skipped" in run.stdout


@pytest.mark.parametrize("variable", ["CI", "REQUIRE_BROWSER"])
def test_where_a_browser_is_required_its_absence_is_a_failure(variable: str) -> None:
    run = run_one_test(**{variable: "true"})
    assert run.returncode == 1, run.stdout
    assert "the browser tests must run here, but there is no chromium" in run.stdout
