"""Some two hundred ways to damage a folder or a GGUF file: each is served as transformers serves it, or refused."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LONGEST_LINE = 800
MOST_SECONDS = 10  # each takes a fraction of one
MOST_BYTES = 30_000_000  # what loading the sound files of 160 kB takes and does not give back, many times over


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The result of every mutation; a process that hangs or dies is a failure of all."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.mutations", str(tmp_path_factory.mktemp("mutations"))],
        cwd=ROOT,
        env=os.environ | {"RUST_BACKTRACE": "0"},  # reading its own symbols would count as the files' memory
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


pytestmark = pytest.mark.timeout(200)


def test_a_damaged_file_is_refused_or_answered_as_transformers_does(told: list[dict[str, Any]]) -> None:
    bad = [(one["name"], one["said"]) for one in told if one["outcome"] not in ("served", "refused")]
    assert bad == []
    kinds = Counter((one["name"].partition(":")[0], one["outcome"]) for one in told)
    assert kinds["folder", "refused"] > 60
    assert kinds["GGUF", "refused"] > 60
    served = {one["name"] for one in told if one["outcome"] == "served"}
    assert {"folder: untouched", "folder: a bit of a weight flipped", "GGUF: untouched"} <= served


def test_a_refusal_is_one_line_that_names_the_file_first(told: list[dict[str, Any]]) -> None:
    for one in told:
        if one["outcome"] == "refused":
            said = one["said"]
            assert said.startswith(one["file"]), one["name"]
            assert "\n" not in said, one["name"]
            assert len(said) < len(one["file"]) + LONGEST_LINE, one["name"]


def test_a_refusal_is_not_in_the_words_of_python_or_torch(told: list[dict[str, Any]]) -> None:
    for one in told:
        for word in (
            "Traceback",
            "Error: ",
            "NoneType object",
            "torch.",
            "object has no attribute",
            "modulo by zero",
            "' object",
            "__",
        ):
            assert word not in one["said"], one["name"]


def test_no_damage_costs_much_time_or_memory(told: list[dict[str, Any]]) -> None:
    for one in told:
        assert one["seconds"] < MOST_SECONDS, one["name"]
        assert one["bytes"] < MOST_BYTES, one["name"]
