"""Every worker shows the same counts; none is lost or counted twice when a process dies."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from backends import host as hosts
from backends import socket_service
from config import Config
from interface.engine import Tally
from interface.events import Finished, Token
from serving.driver import Driver
from serving.metrics import Metrics
from serving.request_log import RequestLog
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import until
from tests.support.driving import all_events, submit
from tests.support.sharing import hosting, working

pytestmark = pytest.mark.anyio
FINISHED = "engine_requests_total"
PROMPTS = "engine_prompt_tokens_total"
GAPS = "engine_inter_token_seconds_count"
FIRSTS = "engine_time_to_first_token_seconds_count"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(socket_service, "REPORT_INTERVAL", 0.02)
    monkeypatch.setattr(hosts, "PULSE_INTERVAL", 0.02)
    monkeypatch.setattr(hosts, "BUSY_INTERVAL", 0.01)
    return tmp_path / "engine.sock"


def samples(driver: Driver) -> dict[str, float]:
    """What /metrics of a worker says; of samples with labels, their sum."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(driver.vitals().metrics().decode()):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


async def ask(driver: Driver, times: int) -> None:
    for _ in range(times):
        await all_events(await submit(driver, "count 3"))


def says(driver: Driver, requests: int) -> bool:
    found = samples(driver)
    expected = {FINISHED: requests, PROMPTS: 2 * requests, GAPS: 2 * requests, FIRSTS: requests}
    return {name: found.get(name, 0) for name in expected} == expected


async def test_every_worker_tells_what_all_have_counted(path: Path) -> None:
    async with hosting(path), working(path) as first, working(path) as second:
        await ask(first, 2)
        await ask(second, 3)
        await until(lambda: says(first, 5) and says(second, 5))
        await until(lambda: samples(first)["engine_generated_tokens_total"] == 15)
        async with working(path) as late:
            await until(lambda: says(late, 5))


async def test_what_the_cache_holds_is_that_of_all_workers_that_are_left(path: Path) -> None:
    engine = ScriptedEngine()
    usage = 3 / (16 * 4096)
    async with hosting(path, engine), working(path) as first:
        async with working(path, Config(drain=0.01)) as second:
            engine.hold()
            for driver in (first, first, second):
                await submit(driver, "count 9")
            await until(lambda: engine.counters().running == 3)
            engine.release(1)
            await until(lambda: samples(first)["engine_cache_usage"] == pytest.approx(3 * usage))
            await until(lambda: samples(second)["engine_cache_usage"] == pytest.approx(3 * usage))
        await until(lambda: samples(first)["engine_cache_usage"] == pytest.approx(2 * usage))


async def test_what_a_worker_has_counted_stays_when_it_ends(path: Path) -> None:
    async with hosting(path), working(path) as first:
        async with working(path) as second:
            await ask(second, 3)
        await ask(first, 1)
        await until(lambda: says(first, 4))


async def test_what_ended_workers_have_counted_survives_the_engine(path: Path) -> None:
    async with hosting(path) as host, working(path) as first, working(path) as other:
        async with working(path) as second:
            await ask(second, 3)
        await until(lambda: says(first, 3) and says(other, 3))
        host.die()
        await until(lambda: first.status != "ok")
        assert says(first, 3)
        async with hosting(path), working(path) as late:
            await until(lambda: first.status == "ok" and other.status == "ok")
            await ask(first, 1)
            await until(lambda: says(first, 4) and says(late, 4))


async def test_a_worker_that_connects_again_is_not_counted_twice(path: Path) -> None:
    async with hosting(path) as host, working(path) as first, working(path) as second:
        await ask(first, 3)
        await until(lambda: says(second, 3))
        for worker in list(host._workers.values()):
            worker.channel.cut("a test says so")
        await until(lambda: first.status != "ok" and second.status != "ok")
        assert says(first, 3)
        await until(lambda: first.status == "ok" and second.status == "ok")
        assert says(first, 3)
        await ask(first, 1)
        await until(lambda: says(first, 4) and says(second, 4))


def test_metrics_of_two_processes_add_up() -> None:
    first, second = Metrics(), Metrics()
    for metrics, requests in ((first, 2), (second, 3)):
        for number in range(requests):
            log = RequestLog("an-id")
            log.prompt_lengths = [7]
            for place in range(4):
                token = Token("a", 1, 10.0 * place + number, place == 0)
                log.record(token)
                metrics.step([(1, token)])
            log.end = Finished("stop" if number else "length", 7, 4, 1, 2, 3, cached_tokens=2)
            log.record(log.end)
            metrics.generation(log)
        metrics.answer(503)
    both = first.plus(second.counts())
    assert both.inter_token.counts == [
        here + there for here, there in zip(first.inter_token.counts, second.inter_token.counts, strict=True)
    ]
    assert both.inter_token.sum == pytest.approx(first.inter_token.sum + second.inter_token.sum)
    assert both.finished == {"length": 2, "stop": 3}
    assert (both.prompt_tokens, both.cached_tokens, both.answers) == (35, 10, {"503": 2})
    assert first.finished == {"length": 1, "stop": 1}
    assert Metrics().plus(both.counts()).counts() == both.counts()


def test_a_tally_minus_an_earlier_one_has_only_the_new_counts() -> None:
    earlier, now = Tally({"a": 1, "b": 2}, 5), Tally({"a": 4, "b": 2, "c": 1}, 3)
    assert now.since(earlier.counts) == Tally({"a": 3, "b": 0, "c": 1}, 3)
    assert Tally(earlier.counts) + now.since(earlier.counts) == now
