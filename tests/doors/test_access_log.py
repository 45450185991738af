"""One line in the access log for each generation, however it ended."""

import logging

import pytest

from tests.support.asgi_client import until
from tests.support.by_message import streaming_or_not
from tests.support.serving import Door, by_hand

pytestmark = pytest.mark.anyio


def access_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, str]]:
    lines = [record.getMessage() for record in caplog.records if record.name == "engine.access"]
    assert all(line.startswith("generation ") for line in lines)
    return [dict(pair.split("=", 1) for pair in line.split()[1:]) for line in lines]


@streaming_or_not
async def test_each_generation_has_one_line_in_the_access_log(
    door: Door, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "engine.access")
    async with by_hand(door) as service:
        response = await service.client.post(prompt="hello there", stream=stream, headers={"x-request-id": "mine-1"})
        await service.client.post(prompt="count 9", max_tokens=1, stream=stream)
        await service.client.request("GET", "/health")
        await service.client.post(prompt="")
    assert response.status == 200
    first, second = access_lines(caplog)
    assert float(first.pop("time_to_first_token_ms")) >= 0
    assert first == {
        "request_id": "mine-1",
        "prompt_tokens": "2",
        "completion_tokens": "4",
        "finish_reason": "stop",
    }
    assert (second["finish_reason"], second["completion_tokens"]) == ("length", "1")


@streaming_or_not
async def test_the_access_log_tells_of_those_who_left_and_of_errors(
    door: Door, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "engine.access")
    async with by_hand(door) as service:
        service.engine.hold()
        async with service.client.open_generate("hello", stream=stream) as exchange:
            await until(lambda: service.engine.counters().running == 1)
            exchange.disconnect()
            await exchange.end()
        service.engine.release()
        async with service.client.open_generate("explode", stream=stream) as exchange:
            await exchange.end()
    left, failed = access_lines(caplog)
    assert (left["finish_reason"], left["time_to_first_token_ms"], left["completion_tokens"]) == ("abort", "-", "0")
    assert (failed["finish_reason"], failed["completion_tokens"]) == ("engine_error", "1")
