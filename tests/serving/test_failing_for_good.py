"""A service that has failed for good: its probes fail, and its process ends with a status for the supervisor."""

import asyncio
import itertools
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from backends import stepped
from backends.stepped import SteppedService
from config import Config
from interface.engine import Sink
from interface.events import Failed, Finished
from serving import sync_driver
from serving.driver import Driver
from serving.process import FAILED, begin_to_end
from study.common.engine import ScriptedEngine
from study.common.launcher import ROOT
from tests.support.asgi_client import PATIENCE, events_of, lifespan, until
from tests.support.driving import all_events, driving, submit, terminal
from tests.support.http_client import Connection
from tests.support.serving import DOORS, Door, assemble, by_hand, in_a_process, wait_until
from tests.support.threads import refuse_threads

both_doors = pytest.mark.parametrize("name", DOORS)
APPLICATION = ["-m", "uvicorn", "--factory", "tests.support.serving:scripted_app", "--port", "0"]


@both_doors
def test_a_process_whose_engine_has_failed_tells_its_streams_and_ends_with_a_status_of_its_own(name: str) -> None:
    with in_a_process(APPLICATION, {"DOOR": name}) as process, Connection(process.port) as connection:
        wait_until(lambda: connection.request("GET", "/health").status == 200)
        assert connection.request("GET", "/live").json() == {"status": "alive"}
        connection.send_generate("explode")
        *_, last = events_of(connection.read_response().body)
        assert last["error"]["type"] == "engine_error"
        assert process.wait() == FAILED
        assert "The engine has failed for good: RuntimeError: the script says so" in process.log
        assert "Traceback" not in process.log


@both_doors
def test_a_process_that_is_told_to_stay_fails_its_probes(name: str) -> None:
    with (
        in_a_process(APPLICATION, {"DOOR": name, "ENGINE_ON_FAILURE": "stay"}) as process,
        Connection(process.port) as connection,
    ):
        wait_until(lambda: connection.request("GET", "/health").status == 200)
        connection.send_generate("explode", stream=False)
        assert connection.read_response().status == 500
        wait_until(lambda: connection.request("GET", "/live").status == 503)
        for path in ("/live", "/health"):
            assert "the script says so" in connection.request("GET", path).json()["status"]
        assert process.popen.poll() is None


@pytest.mark.anyio
async def test_live_is_ok_while_the_model_loads_and_fails_when_it_cannot_be_loaded(door: Door) -> None:
    may_end = asyncio.Event()
    loop = asyncio.get_running_loop()

    def fail(config: Config) -> Any:
        asyncio.run_coroutine_threadsafe(may_end.wait(), loop).result(PATIENCE)
        raise RuntimeError(f"no memory for {config.model}")

    service = assemble(door, config=Config(model="/secret/folder/of/a-model"), load=fail)
    async with lifespan(service.app):
        assert (await service.client.request("GET", "/live")).status == 200
        may_end.set()
        await until(lambda: service.driver.status.startswith("failed"))
        live = await service.client.request("GET", "/live")
        assert (live.status, live.json()) == (503, {"status": "failed to load: no memory for a-model"})


@pytest.mark.anyio
async def test_live_is_ok_while_the_server_ends(door: Door) -> None:
    async with by_hand(door) as service:
        service.driver._status.refuse("shutting down")
        assert (await service.client.request("GET", "/health")).status == 503
        assert (await service.client.request("GET", "/live")).status == 200


@pytest.mark.anyio
@pytest.mark.parametrize("on_failure", ["exit", "stay"])
async def test_only_a_driver_that_is_told_to_ends_its_process(on_failure: str, ends: list[str]) -> None:
    engine = ScriptedEngine()
    async with driving(engine, Config(on_failure=on_failure)) as driver:
        await all_events(await submit(driver, "explode"))
        await until(lambda: driver.vitals().has_failed)
    assert ends == (["begin 70", "now 70"] if on_failure == "exit" else [])


@pytest.mark.anyio
@pytest.mark.parametrize("on_failure", ["exit", "stay"])
async def test_a_driver_whose_model_cannot_be_loaded_ends_its_process(on_failure: str, ends: list[str]) -> None:
    driver = Driver(Config(model="/no/such/model", on_failure=on_failure))
    async with driver.running():
        await until(lambda: driver.vitals().has_failed and (ends or on_failure == "stay"))
    assert ends == (["begin 78", "now 78"] if on_failure == "exit" else [])


def test_a_process_whose_server_does_not_end_exits_all_the_same() -> None:
    program = """
import signal, time
from serving.process import FAILED, begin_to_end
signal.signal(signal.SIGTERM, signal.SIG_IGN)
begin_to_end(0.01, FAILED)
time.sleep(1000)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=PATIENCE).returncode == FAILED


def test_lines_that_a_handler_of_the_log_still_holds_are_written_before_the_process_exits() -> None:
    program = """
import logging.handlers
from serving.process import FAILED, end_now
holding = logging.handlers.MemoryHandler(100, flushLevel=100, target=logging.StreamHandler())
logging.getLogger().addHandler(holding)
logging.critical("the reason")
end_now(FAILED)
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=PATIENCE, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (FAILED, "the reason\n")


def test_a_process_that_gets_no_thread_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr("os.kill", lambda process_id, number: sent.append(number))
    refuse_threads(monkeypatch)
    begin_to_end(0.0, FAILED)
    assert sent == [signal.SIGTERM]


@pytest.mark.anyio
async def test_a_service_that_gets_no_thread_for_its_steps_is_not_ready(
    monkeypatch: pytest.MonkeyPatch, ends: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def load(config: Config) -> SteppedService:
        refuse_threads(monkeypatch)
        return SteppedService(ScriptedEngine())

    driver = Driver(Config(), load)
    async with driver.running():
        await until(lambda: driver.vitals().has_failed)
        assert "no thread to run the model on: can't start new thread" in driver.status
    assert ends == ["begin 78", "now 78"]
    assert all(record.exc_info is None for record in caplog.records)


@pytest.mark.anyio
async def test_a_service_that_gets_no_thread_for_its_load_says_so(
    monkeypatch: pytest.MonkeyPatch, ends: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    refuse_threads(monkeypatch)
    driver = Driver(Config(), lambda config: SteppedService(ScriptedEngine()))
    async with driver.running():
        await until(lambda: driver.vitals().has_failed)
        assert "no thread to load the model on: can't start new thread. A limit" in driver.status
    assert ends == ["begin 78", "now 78"]
    assert all(record.exc_info is None for record in caplog.records)


def test_a_wsgi_door_that_gets_no_thread_for_its_load_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_threads(monkeypatch)
    driver = sync_driver.Driver(Config(), lambda config: ScriptedEngine())
    driver.start()
    assert driver.vitals().has_failed
    assert "no thread to load the model on: can't start new thread. A limit" in driver.status
    assert all(record.exc_info is None for record in caplog.records)


@pytest.mark.anyio
async def test_a_request_that_gets_no_thread_may_come_again(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async with by_hand(door) as service:
        with monkeypatch.context() as patch:
            refuse_threads(patch)
            answer = await service.client.post(prompt="one", stream=False)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "no more threads" in answer.json()["detail"]
        assert (await service.client.post(prompt="one", stream=False)).status == 200


class Stuck(ScriptedEngine):
    """Its step does not return, as when a device hangs."""

    def step(self) -> bool:
        time.sleep(1.0)
        return super().step()


@pytest.mark.anyio
async def test_a_step_that_does_not_return_is_a_failure() -> None:
    driver = Driver(Config(), lambda config: SteppedService(Stuck(), step_limit=0.05))
    async with driver.running():
        await until(lambda: driver.status == "ok")
        end = terminal(await all_events(await submit(driver)))
        assert isinstance(end, Failed)
        assert "longer than 0.05 s" in end.message
        assert driver.vitals().has_failed


class Slow(ScriptedEngine):
    def step(self) -> bool:
        time.sleep(0.1)
        return super().step()


@pytest.mark.anyio
async def test_a_step_in_which_the_process_was_stopped_for_long_has_not_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by Ctrl-Z, or by `docker pause`: the clock has gone on, but nothing else."""
    times = itertools.count(0.0, 1000.0)
    monkeypatch.setattr(stepped, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    monkeypatch.setattr(stepped, "WATCH_INTERVAL", 0.01)
    async with driving(Slow(), service=lambda engine: SteppedService(engine, step_limit=300.0)) as driver:
        assert isinstance(terminal(await all_events(await submit(driver))), Finished)


class Leaving(ScriptedEngine):
    """Its step raises what would end a thread, or a loop."""

    def step(self) -> bool:
        raise SystemExit(3)


@pytest.mark.anyio
async def test_a_stepping_thread_that_dies_is_a_failure() -> None:
    async with driving(Leaving()) as driver:
        end = terminal(await all_events(await submit(driver)))
        assert isinstance(end, Failed)
        assert "SystemExit" in end.message


class Unstartable(SteppedService):
    async def start(
        self, on_events: Sink, on_failure: Callable[[str], None], on_outage: Callable[[str | None], None]
    ) -> None:
        raise OSError("no more threads")


@pytest.mark.anyio
async def test_a_background_task_that_dies_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    driver = Driver(Config(), lambda config: Unstartable(ScriptedEngine()))
    async with driver.running():
        await until(lambda: driver.vitals().has_failed)
        assert driver.status == "engine failed: OSError: no more threads"
    assert any(record.levelno == logging.CRITICAL for record in caplog.records)


@both_doors
@pytest.mark.parametrize("without", ["", "sniffio"], ids=["with sniffio", "without sniffio"])
def test_a_signal_is_heard_whatever_library_tells_which_loop_runs(name: str, without: str) -> None:
    """anyio asks `sniffio` if it is installed, and sniffio knows no loop in a callback of it."""
    environ = {"DOOR": name, "ENGINE_DRAIN": "0.1"} | ({"WITHOUT": without} if without else {})
    with in_a_process(APPLICATION, environ) as process, Connection(process.port) as connection:
        wait_until(lambda: connection.request("GET", "/health").status == 200)
        connection.send_generate("drip 4000", max_tokens=4000)
        connection.read_head()
        process.popen.terminate()
        *_, last = events_of(b"".join(connection.chunks()))
        assert last["error"]["type"] == "shutdown"
        process.wait()
        assert "Traceback" not in process.log


def test_sniffio_is_installed_so_that_the_tests_try_it() -> None:
    import sniffio  # noqa: F401
