"""Both doors with an engine elsewhere: every API answers, and streams and probes show when the engine dies."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from backends import vllm_engine
from backends.sglang_server import SGLangService
from backends.vllm_engine import VllmService
from config import Config
from study.common.http_servers import serving
from tests.support.asgi_client import JSON, events_of, lifespan, until
from tests.support.fake_sglang import FakeSGLang
from tests.support.fake_vllm import FakeAsyncLLM
from tests.support.openai_answers import named_events
from tests.support.relaying import ANSWER, EOS, bundled_text, ids_of
from tests.support.serving import Door, Service, assemble

MESSAGES = [{"role": "user", "content": "What is 2 + 2?"}]
MODEL = "bundled_model"


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine, "WATCH_INTERVAL", 0.02)


@asynccontextmanager
async def vllm_behind(door: Door, fake: FakeAsyncLLM) -> AsyncIterator[Service]:
    config = Config(backend="vllm", on_failure="stay")
    service = assemble(door, config=config, load=lambda config: VllmService(config, bundled_text(), fake, dict))
    async with lifespan(service.app):
        await until(lambda: service.driver.status == "ok")
        yield service


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "body", "read"),
    [
        ("/generate", {"prompt": "x"}, lambda reply: reply["text"]),
        ("/v1/completions", {"prompt": "x", "max_tokens": 99}, lambda reply: reply["choices"][0]["text"]),
        ("/v1/chat/completions", {"messages": MESSAGES}, lambda reply: reply["choices"][0]["message"]["content"]),
        ("/v1/responses", {"model": MODEL, "input": "x"}, lambda reply: reply["output"][0]["content"][0]["text"]),
        (
            "/v1/messages",
            {"model": MODEL, "messages": MESSAGES, "max_tokens": 99},
            lambda reply: reply["content"][0]["text"],
        ),
    ],
)
async def test_every_api_answers(door: Door, path: str, body: dict[str, Any], read: Any) -> None:
    async with vllm_behind(door, FakeAsyncLLM([*ids_of(ANSWER), EOS])) as service:
        response = await service.client.request("POST", path, json.dumps(body).encode(), JSON)
    assert response.status == 200, response.body
    assert read(response.json()) == ANSWER


@pytest.mark.anyio
async def test_the_death_of_vllm_shows_in_streams_and_probes(door: Door) -> None:
    fake = FakeAsyncLLM([*ids_of(ANSWER), EOS])
    fake.may_go_on.clear()
    async with vllm_behind(door, fake) as service:
        async with service.client.open_generate("x") as exchange:
            await exchange.next_message()  # before it, the death would refuse the request
            await until(lambda: fake.running == 1)
            fake.die()
            error = events_of((await exchange.response()).body)[-1]
        assert error == {"error": {"message": "vLLM's engine process has ended", "type": "engine_error"}}
        await until(lambda: service.driver.vitals().has_failed)
        assert (await service.client.request("GET", "/live")).status == 503
        assert (await service.client.request("GET", "/health")).status == 503


def in_front_of_sglang(door: Door, port: int) -> Service:
    config = Config(backend="sglang", backend_url=f"http://127.0.0.1:{port}")
    return assemble(door, config=config, load=lambda config: SGLangService(config, bundled_text()))


@pytest.mark.anyio
async def test_the_death_of_a_server_fails_health_but_not_live(door: Door) -> None:
    fake = FakeSGLang(ids_of, ids_of(ANSWER), EOS)
    async with serving(fake.app) as port:
        service = in_front_of_sglang(door, port)
        async with lifespan(service.app):
            await until(lambda: service.driver.status == "ok")
            assert (await service.client.request("GET", "/health")).status == 200
            fake.is_healthy = False
            await until(lambda: service.driver.status != "ok")
            health = await service.client.request("GET", "/health")
            assert (health.status, health.json()["status"][:12]) == (503, "engine lost:")
            assert (await service.client.request("GET", "/live")).status == 200
            assert (await service.client.post(prompt="x")).status == 503


@pytest.mark.anyio
async def test_a_response_that_breaks_off_in_the_background_has_failed_and_its_conversation_goes_on(door: Door) -> None:
    fake = FakeSGLang(ids_of, ids_of(ANSWER), EOS)
    async with serving(fake.app) as port:
        service = in_front_of_sglang(door, port)

        async def answer_to(method: str, path: str, **body: Any) -> Any:
            return (await service.client.request(method, path, json.dumps(body).encode(), JSON)).json()

        async with lifespan(service.app):
            await until(lambda: service.driver.status == "ok")
            conversation = (await answer_to("POST", "/v1/conversations"))["id"]
            turn = {"input": "x", "conversation": conversation}
            fake.breaks_after = 2
            stream = json.dumps({**turn, "background": True, "stream": True}).encode()
            (first, *_, last) = named_events((await service.client.request("POST", "/v1/responses", stream, JSON)).body)
            assert last["type"] == "response.failed"
            fake.is_healthy = False
            await until(lambda: service.driver.status != "ok")
            assert (await answer_to("GET", f"/v1/responses/{first['response']['id']}"))["status"] == "failed"
            fake.is_healthy, fake.breaks_after = True, None
            await until(lambda: service.driver.status == "ok")
            assert (await answer_to("POST", "/v1/responses", **turn))["output"][0]["content"][0]["text"] == ANSWER
