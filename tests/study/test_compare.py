"""`python -m study.compare` on real servers finds the differences that exist."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from study.common.launcher import ROOT


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The output and the report of one quick run."""
    out: Path = tmp_path_factory.mktemp("compare")
    command = [sys.executable, "-m", "study.compare", "--quick", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    data = json.loads((out / "report.json").read_text())
    return {
        "printed": done.stdout,
        "html": (out / "report.html").read_text(),
        "servers": {result["kind"]["name"]: result for result in data["results"]},
    }


@pytest.mark.timeout(180)
def test_the_comparison_prints_a_table_and_writes_a_page_with_pictures(quick: dict[str, Any]) -> None:
    for title in ("WSGI (1 worker)", "WSGI (16 threads)", "the article's", "Starlette", "raw ASGI"):
        assert title in quick["printed"]
        assert title in quick["html"].replace("&#x27;", "'")
    assert quick["html"].count("<svg") == 4
    assert "A reader that stops reading" in quick["printed"]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("door", ["starlette", "raw_asgi"])
def test_what_send_and_receive_can_do_shows_in_the_figures(quick: dict[str, Any], door: str) -> None:
    figures, pulled = quick["servers"][door]["figures"], quick["servers"]["wsgi_sync"]["figures"]
    only, pulled_only = figures["one"]["streams"][0], pulled["one"]["streams"][0]
    assert only["headers_at"] < only["tokens_at"][0] < only["ended_at"]
    assert pulled_only["tokens_at"][0] - pulled_only["headers_at"] < 0.5 * pulled_only["tokens_at"][0]
    assert figures["left"]["in_prefill"]["tokens_made"] == 0
    assert pulled["left"]["in_prefill"]["tokens_made"] >= 1
    assert figures["left"]["unstreamed"]["tokens_made"] < 100
    assert pulled["left"]["unstreamed"]["tokens_made"] == 100


@pytest.mark.timeout(180)
def test_one_worker_that_streams_leaves_health_waiting(quick: dict[str, Any]) -> None:
    pulled = quick["servers"]["wsgi_sync"]["figures"]
    assert pulled["stuck"]["longest_wait"] > 0.25
    assert pulled["stuck"]["freed_after"] is None
