"""Many streams at once, and health while the engine or a stream is busy."""

import contextlib
import json
import threading
import tracemalloc
from collections.abc import Iterator

import pytest

from backends.stepped import ENCODERS
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import JSON, UVICORN, Exchange, events_of, http_scope, until
from tests.support.by_message import expect_start
from tests.support.serving import Door, by_hand

pytestmark = pytest.mark.anyio


async def test_sixty_streams_run_at_once_without_a_thread_for_each(door: Door) -> None:
    """anyio's own pool has 40 threads; a stream that held one would leave the 41st without."""
    async with by_hand(door, ScriptedEngine(slots=64)) as service, contextlib.AsyncExitStack() as stack:
        service.engine.hold()
        async with service.client.open_generate("hello") as warm_up:
            await expect_start(warm_up)
            threads_for_one = threading.active_count()
            warm_up.disconnect()
            await warm_up.end()
        exchanges = [
            await stack.enter_async_context(service.client.open_generate(f"count {n + 1}", max_tokens=100))
            for n in range(60)
        ]
        await until(lambda: service.engine.counters().running == 60)
        for exchange in exchanges:
            await expect_start(exchange)
        # One thread steps, and ENCODERS tokenize, each prompt on a thread that ends then.
        await until(lambda: threading.active_count() <= threads_for_one + ENCODERS, "the end of the others")
        service.engine.release(1)
        for exchange in exchanges:
            assert (await exchange.next_event())["token"] == "0 "
        service.engine.release()
        for n, exchange in enumerate(exchanges):
            *tokens, closing = events_of((await exchange.response()).body)
            assert [token["token"] for token in tokens] == [f"{i} " for i in range(n + 1)]
            assert closing["completion_tokens"] == n + 1


async def test_health_is_answered_while_a_step_takes_long(door: Door) -> None:
    async with by_hand(door) as service:
        service.engine.hold()
        async with service.client.open_generate("hello") as exchange:
            await until(lambda: service.engine.counters().running == 1)
            for _ in range(10):
                response = await service.client.request("GET", "/health")
                assert response.json()["running"] == 1
            assert service.engine.steps == 0
            service.engine.release()
            await exchange.end()


async def test_health_is_answered_while_a_stream_has_much_to_send(door: Door) -> None:
    """A send usually does not wait, so a stream that only sends would keep the loop to itself."""
    async with by_hand(door) as service:
        service.engine.hold()
        async with service.client.open_generate("count 4000", max_tokens=4000) as exchange:
            await expect_start(exchange)
            exchange.stop_reading()
            service.engine.release()
            await until(lambda: service.engine.generated_tokens == 4000)
            await until(lambda: service.engine.counters().running == 0)
            exchange.start_reading()
            assert (await service.client.request("GET", "/health")).status == 200
            assert not exchange.task.done()
            await exchange.end()


MIB = 2**20
IN_PIECES = JSON | {"transfer-encoding": "chunked"}


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def with_a_screenshot(stream: bool) -> bytes:
    """A body of 5 MiB."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * (5 * MIB)}}
    turns = [{"role": "user", "content": [image]}, {"role": "assistant", "content": "A."}]
    messages = [*turns, {"role": "user", "content": "hello"}]
    return json.dumps({"messages": messages, "stream": stream}).encode()


@pytest.mark.parametrize("stream", [True, False])
async def test_large_bodies_take_no_room_while_their_answers_are_generated(
    door: Door, stream: bool, traced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long answers to a few agents with screenshots would otherwise refuse all others."""
    monkeypatch.setattr("serving.gate.MAX_BODIES_BYTES", 8 * MIB)
    async with by_hand(door) as service, contextlib.AsyncExitStack() as stack:
        service.engine.hold()
        before, _ = tracemalloc.get_traced_memory()
        exchanges = []
        for count in (1, 2, 3):
            exchange = service.client.open("POST", "/v1/chat/completions", IN_PIECES)
            exchanges.append(await stack.enter_async_context(exchange))
            exchange.send_body(with_a_screenshot(stream))
            await until(lambda count=count: service.engine.counters().running == count)  # type: ignore[misc]
        assert service.driver.exchanges.body_bytes == 0
        assert tracemalloc.get_traced_memory()[0] - before < 5 * MIB
        service.engine.release()
        for exchange in exchanges:
            assert (await exchange.response()).status == 200


async def test_a_body_that_found_no_room_takes_none_from_others_until_its_client_reads_so(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many that come at once, all would otherwise be refused and not only those that are too many."""
    monkeypatch.setattr("serving.gate.MAX_BODIES_BYTES", 8 * MIB)
    body = with_a_screenshot(stream=False)
    async with by_hand(door) as service:
        first, second = (service.client.open("POST", "/v1/chat/completions", IN_PIECES) for _ in range(2))
        async with first, second:
            first.send_body(body[: 4 * MIB], more_body=True)
            await until(lambda: service.driver.exchanges.body_bytes == 4 * MIB)
            second.stop_reading()
            second.send_body(body[: 5 * MIB], more_body=True)
            await until(lambda: second.send_calls > 0, "the refusal")
            first.send_body(body[4 * MIB :])
            assert (await first.response()).status == 200
            second.start_reading()
            assert (await second.response()).status == 503


async def test_requests_in_flight_do_not_meet(door: Door) -> None:
    """Many at once, each with an id and an answer of its own."""
    async with by_hand(door) as service, contextlib.AsyncExitStack() as stack:
        exchanges = {}
        for n in range(1, 21):
            scope = http_scope("POST", "/generate", JSON | {"x-request-id": f"id-{n}"})
            exchanges[n] = await stack.enter_async_context(Exchange(service.app, scope, UVICORN))
        for n, exchange in reversed(exchanges.items()):
            exchange.send_body(json.dumps({"prompt": f"count {n}", "stream": n % 2 == 0}).encode())
        for n, exchange in exchanges.items():
            response = await exchange.response()
            assert response.headers["x-request-id"] == f"id-{n}"
            completion = events_of(response.body)[-1] if n % 2 == 0 else response.json()
            assert completion["completion_tokens"] == n
