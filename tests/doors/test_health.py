"""GET /health: how busy the engine is, and what is wrong with it."""

from typing import Any

import pytest

from config import Config
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import events_of, until
from tests.support.by_message import expect_start, submitted
from tests.support.serving import Door, by_hand

pytestmark = pytest.mark.anyio


async def test_health_says_what_the_engine_is_busy_with(door: Door) -> None:
    async with by_hand(door, ScriptedEngine(slots=1), Config(model="an/example")) as service:
        service.engine.hold()
        async with submitted(service, "hello", True) as running, submitted(service, "hello", True):
            await until(lambda: service.engine.counters().waiting == 1)
            service.engine.release(2)
            await expect_start(running)
            await running.next_event()
            await running.next_event()
            response = await service.client.request("GET", "/health")
    assert response.status == 200
    assert response.json() == {
        "status": "ok",
        "model": "an/example",
        "running": 1,
        "waiting": 1,
        "generated_tokens": 2,
        "transcript": False,
    }
    assert list(response.json()) == ["status", "model", "running", "waiting", "generated_tokens", "transcript"]


async def test_health_names_a_folder_without_the_folders_above_it(door: Door, tmp_path: Any) -> None:
    folder = tmp_path / "some_model"
    folder.mkdir()
    async with by_hand(door, config=Config(model=str(folder))) as service:
        assert (await service.client.request("GET", "/health")).json()["model"] == "some_model"


async def test_after_the_engine_has_died_health_and_new_requests_are_503_and_say_why(door: Door) -> None:
    async with by_hand(door) as service:
        service.engine.hold()
        async with (
            service.client.open_generate("explode", stream=False) as culprit,
            service.client.open_generate("count 300", max_tokens=300) as bystander,
        ):
            await until(lambda: service.engine.counters().running == 2)
            service.engine.release()
            assert (await culprit.response()).status == 500
            *_, error = events_of((await bystander.response()).body)
            assert error["error"]["type"] == "engine_error"
        await until(lambda: service.driver.status != "ok")  # the streams may hear of it a moment before
        health = await service.client.request("GET", "/health")
        assert health.status == 503
        assert health.json()["status"] == "engine failed: RuntimeError: the script says so"
        for stream in (True, False):
            refused = await service.client.post(prompt="hello", stream=stream)
            assert (refused.status, refused.headers.get("retry-after")) == (500, None)
            assert "the script says so" in refused.json()["detail"]
