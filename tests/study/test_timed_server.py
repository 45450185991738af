"""The server with a clock in it, which `bench_engine` asks how long tokens wait."""

import pytest

from config import Config
from raw_asgi import create_app
from study.benchmarks import timed_server
from study.benchmarks.timed_server import TimedDriver, timed
from study.common.engine import HELLO, ScriptedEngine
from tests.support.asgi_client import Client, lifespan, until

pytestmark = pytest.mark.anyio


async def test_each_token_of_a_stream_has_a_delay_which_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timed_server, "load_engine", lambda config: ScriptedEngine())
    driver = TimedDriver(Config())
    app = timed(create_app(driver), driver)
    client = Client(app)
    async with lifespan(app):
        await until(lambda: driver.status == "ok", "the engine's start")
        assert (await client.post(prompt="hello", stream=True)).status == 200
        answer = await client.request("GET", "/delays")
        assert answer.status == 200
        delays = answer.json()
        assert [tokens for _, tokens in delays] == [1] * len(HELLO)
        assert all(seconds >= 0 for seconds, _ in delays)
        assert (await client.request("GET", "/delays")).json() == []
