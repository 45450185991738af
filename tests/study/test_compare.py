"""`python -m study.compare`, on real servers: what it measures is there, and what it must see it sees."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from config import Config
from interface.events import Finished, Token
from interface.requests import text_request
from serving.sync_driver import Driver
from study.common.launcher import ROOT
from study.compare.article_server import create_app
from study.compare.paced_engine import PacedEngine
from tests.support.asgi_client import Client, events_of
from tests.support.serving import wait_until


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one quick run printed and wrote."""
    out: Path = tmp_path_factory.mktemp("compare")
    command = [sys.executable, "-m", "study.compare", "--quick", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    data = json.loads((out / "report.json").read_text())
    return {
        "printed": done.stdout,
        "html": (out / "report.html").read_text(),
        "servers": {one["kind"]["name"]: one for one in data["results"]},
    }


@pytest.mark.timeout(180)
def test_it_prints_a_table_and_writes_a_page_with_pictures(quick: dict[str, Any]) -> None:
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


@pytest.mark.anyio
async def test_the_articles_server_is_made_to_end() -> None:
    driver = Driver(Config(), lambda config: PacedEngine())
    driver.start()
    wait_until(lambda: driver.status == "ok")
    client = Client(create_app(driver))
    streamed = await client.post(prompt="pace=0", max_tokens=5, stream=True)
    events = events_of(streamed.body)
    assert [event.get("token_id") for event in events] == [0, 1, 2, 3, 4, None]
    whole = await client.post(prompt="pace=0", max_tokens=5)
    assert whole.json()["token_ids"] == [0, 1, 2, 3, 4]
    assert (await client.request("GET", "/health")).json()["generated_tokens"] == 10


def test_the_paced_engine_waits_its_prefill_out_and_ends_each_request_once() -> None:
    engine = PacedEngine()
    events: list[Any] = []

    def submit(prompt: str, max_tokens: int) -> int:
        encoded = engine.encode([text_request(prompt, max_tokens=max_tokens)])
        engine.submit(encoded, lambda batch: events.extend(event for _, event in batch))
        return encoded[0].sequence_id

    submit("prefill=2 size=3", 2)
    assert [engine.step() for _ in range(4)] == [True, True, True, False]
    assert [type(event) for event in events] == [Token, Token, Finished]
    assert events[0].text == "xxx"
    events.clear()
    number = submit("prefill=9", 2)
    engine.step()
    assert engine.counters().running == 1
    engine.abort(number)
    engine.abort(number)
    assert not engine.step()
    assert [event.finish_reason for event in events] == ["abort"]
    assert engine.counters().running == 0
