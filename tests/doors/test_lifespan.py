"""The lifespan protocol: loading, starting, shutting down."""

import contextlib
import logging
import threading
from typing import Any

import pytest

from backends.stepped import SteppedService
from config import Config
from interface.engine import EngineService
from interface.errors import LoadError
from serving.driver import SMALL_BODY, Driver
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import events_of, lifespan, until
from tests.support.by_message import streaming_or_not
from tests.support.serving import Door, assemble

pytestmark = pytest.mark.anyio


class Loading:
    """A load that ends when it is told to."""

    def __init__(self, outcome: EngineService | Exception) -> None:
        self.outcome = outcome
        self.has_begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self, config: Config) -> EngineService:
        self.has_begun.set()
        assert self.may_end.wait(20)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


async def test_the_status_is_loading_before_the_thread_that_loads_has_begun() -> None:
    loading = Loading(SteppedService(ScriptedEngine()))
    driver = Driver(Config(), loading)
    async with driver.running():
        assert not loading.has_begun.is_set()
        assert driver.status == "loading"
        loading.may_end.set()
        await until(lambda: driver.status == "ok")


async def test_startup_is_complete_while_the_engine_still_loads(door: Door) -> None:
    engine = ScriptedEngine()
    loading = Loading(SteppedService(engine))
    service = assemble(door, load=loading)
    async with lifespan(service.app):
        await until(loading.has_begun.is_set)
        health = await service.client.request("GET", "/health")
        assert (health.status, health.json()["status"]) == (503, "loading")
        assert health.json()["generated_tokens"] == 0
        for stream in (True, False):
            refused = await service.client.post(prompt="hello", stream=stream)
            assert refused.status == 503
            assert "loading" in refused.json()["detail"]
            assert int(refused.headers["retry-after"]) >= 1
        assert (await service.client.post(prompt="")).status == 422
        assert (await service.client.request("HEAD", "/health")).status == 503
        loading.may_end.set()
        await until(lambda: service.driver.status == "ok")
        assert (await service.client.post(prompt="hello")).status == 200
        assert (await service.client.request("GET", "/health")).status == 200


@pytest.mark.parametrize("error", [LoadError("no such folder: x"), RuntimeError("no memory")], ids=["user's", "ours"])
async def test_a_load_that_fails_shows_in_health_and_in_the_log(
    door: Door, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(config: Config) -> EngineService:
        raise error

    service = assemble(door, load=fail)
    async with lifespan(service.app):
        await until(lambda: service.driver.status.startswith("failed"))
        health = await service.client.request("GET", "/health")
        assert (health.status, health.json()["status"]) == (503, f"failed to load: {error}")
        refused = await service.client.post(prompt="hello")
        assert refused.status == 500
        assert str(error) in refused.json()["detail"]
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert str(error) in record.getMessage()
    assert bool(record.exc_info) == (not isinstance(error, LoadError))


async def test_shutdown_does_not_wait_for_a_load(door: Door) -> None:
    loading = Loading(SteppedService(ScriptedEngine()))
    service = assemble(door, load=loading)
    async with lifespan(service.app):
        await until(loading.has_begun.is_set)
    loading.may_end.set()


async def test_without_the_lifespan_protocol_there_is_no_engine_and_health_says_so(door: Door) -> None:
    service = assemble(door)
    health = await service.client.request("GET", "/health")
    assert health.status == 503
    assert "lifespan" in health.json()["status"]
    for prompt in ("hello", "x" * 2 * SMALL_BODY):
        assert (await service.client.post(prompt=prompt)).status == 503
    assert (await service.client.request("GET", "/v1/models")).status == 503
    assert (await service.client.request("GET", "/v1/responses/unknown")).status == 404
    assert (await service.client.request("GET", "/docs")).status == 200


async def test_lifespan_needs_no_state_in_its_scope(door: Door) -> None:
    service = assemble(door)

    async def without_state(scope: Any, receive: Any, send: Any) -> None:
        del scope["state"]
        await service.app(scope, receive, send)

    async with lifespan(without_state):
        await until(lambda: service.driver.status == "ok")
        assert (await service.client.post(prompt="hello")).status == 200


async def test_an_application_can_be_started_again(door: Door) -> None:
    service = assemble(door)
    for _ in range(2):
        async with lifespan(service.app):
            await until(lambda: service.driver.status == "ok")
            assert (await service.client.post(prompt="hello")).status == 200
        assert (await service.client.request("GET", "/health")).status == 503


async def test_a_driver_that_cannot_start_fails_the_startup(door: Door) -> None:
    class Broken(Driver):
        @contextlib.asynccontextmanager
        async def running(self) -> Any:
            raise RuntimeError("no threads left")
            yield

    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(RuntimeError, match="no threads left"):
        await door(Broken(Config()))({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    (message,) = sent
    assert message["type"] == "lifespan.startup.failed"
    assert "no threads left" in message["message"]


@streaming_or_not
async def test_shutdown_tells_open_requests(door: Door, stream: bool) -> None:
    service = assemble(door)
    async with contextlib.AsyncExitStack() as stack:
        async with lifespan(service.app):
            await until(lambda: service.driver.status == "ok")
            service.engine.hold()
            exchange = await stack.enter_async_context(service.client.open_generate("hello", stream))
            await until(lambda: service.engine.counters().running == 1)
        response = await exchange.response()
    if stream:
        assert events_of(response.body) == [{"error": {"message": "The server is shutting down", "type": "shutdown"}}]
    else:
        assert (response.status, response.json()) == (503, {"detail": "The server is shutting down"})
        assert int(response.headers["retry-after"]) >= 1
