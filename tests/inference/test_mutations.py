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
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
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


def test_a_damaged_file_is_refused_or_answered_as_transformers_does(results: list[dict[str, Any]]) -> None:
    bad = [(case["name"], case["message"]) for case in results if case["outcome"] not in ("served", "refused")]
    assert bad == []
    kinds = Counter((case["name"].partition(":")[0], case["outcome"]) for case in results)
    assert kinds["folder", "refused"] > 60
    assert kinds["GGUF", "refused"] > 60
    served = {case["name"] for case in results if case["outcome"] == "served"}
    assert {"folder: untouched", "folder: a bit of a weight flipped", "GGUF: untouched"} <= served


def test_a_refusal_is_one_line_that_names_the_file_first(results: list[dict[str, Any]]) -> None:
    for case in results:
        if case["outcome"] == "refused":
            message = case["message"]
            assert message.startswith(case["file"]), case["name"]
            assert "\n" not in message, case["name"]
            assert len(message) < len(case["file"]) + LONGEST_LINE, case["name"]


def test_a_refusal_is_not_in_the_words_of_python_or_torch(results: list[dict[str, Any]]) -> None:
    for case in results:
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
            assert word not in case["message"], case["name"]


def test_no_damage_costs_much_time_or_memory(results: list[dict[str, Any]]) -> None:
    for case in results:
        assert case["seconds"] < MOST_SECONDS, case["name"]
        assert case["bytes"] < MOST_BYTES, case["name"]
