"""Both doors give routers what they ask of a backend; docs/scale.md names the sources."""

import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from config import Config
from tests.support.asgi_client import until
from tests.support.serving import Door, Service, by_hand

pytestmark = pytest.mark.anyio
MODEL = "org/a-model"
CONFIG = Config(model=MODEL, max_streams=4)

GAUGES = {
    "Gateway API inference extension": {
        "vllm:num_requests_waiting",
        "vllm:num_requests_running",
        "vllm:kv_cache_usage_perc",
        "vllm:cache_config_info",
    },
    "llm-d": {
        "vllm:num_requests_waiting",
        "vllm:num_requests_running",
        "vllm:kv_cache_usage_perc",
        "vllm:cache_config_info",
    },
    "vLLM production stack": {
        "vllm:num_requests_waiting",
        "vllm:num_requests_running",
        "vllm:gpu_cache_usage_perc",
    },
}
COUNTERS = {
    "vLLM production stack": {"vllm:gpu_prefix_cache_hits_total", "vllm:gpu_prefix_cache_queries_total"},
}


async def scraped(service: Service) -> dict[str, tuple[str, dict[str, str], float]]:
    """Type, labels and value of every sample under vLLM's names."""
    answer = await service.client.request("GET", "/metrics")
    assert answer.status == 200
    return {
        sample.name: (family.type, sample.labels, sample.value)
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
        if sample.name.startswith("vllm:") and not sample.name.endswith("_created")
    }


async def reply_to(service: Service, path: str, **fields: Any) -> Any:
    """The whole answer of one of OpenAI's endpoints."""
    body = json.dumps({"model": MODEL, **fields}).encode()
    answer = await service.client.request("POST", path, body, {"content-type": "application/json"})
    assert answer.status == 200, answer.body
    return answer


@pytest.mark.parametrize("router", GAUGES)
async def test_a_router_finds_the_gauges_that_it_scrapes(door: Door, router: str) -> None:
    async with by_hand(door, config=CONFIG) as service:
        samples = await scraped(service)
    assert {name: samples[name][0] for name in GAUGES[router]} == dict.fromkeys(GAUGES[router], "gauge")
    for name in GAUGES[router] - {"vllm:cache_config_info"}:
        assert samples[name][1].keys() == {"model_name"}


@pytest.mark.parametrize("router", COUNTERS)
async def test_a_router_finds_the_counters_that_it_scrapes(door: Door, router: str) -> None:
    async with by_hand(door, config=CONFIG) as service:
        await service.client.post(prompt="one two three")
        samples = await scraped(service)
    assert {name: samples[name][0] for name in COUNTERS[router]} == dict.fromkeys(COUNTERS[router], "counter")
    assert samples["vllm:gpu_prefix_cache_queries_total"][2] == 3
    assert samples["vllm:gpu_prefix_cache_hits_total"][2] == 0


async def test_the_gauges_follow_the_queue(door: Door) -> None:
    async with by_hand(door, config=CONFIG) as service:
        service.engine.slots = 1
        service.engine.hold()
        async with service.client.open_generate("hello") as first, service.client.open_generate("hello") as second:
            await until(lambda: service.engine.counters().waiting == 1)
            samples = await scraped(service)
            service.engine.release()
            await first.end()
            await second.end()
        after = await scraped(service)
    assert samples["vllm:num_requests_running"][2] == samples["vllm:num_requests_waiting"][2] == 1
    assert after["vllm:num_requests_running"][2] == after["vllm:num_requests_waiting"][2] == 0


async def test_the_blocks_are_small_enough_to_find_a_prefix_in_a_prompt(door: Door) -> None:
    """A prefix scorer cuts the prompt into blocks of this size, and ignores a prompt that is shorter than one."""
    async with by_hand(door, config=CONFIG) as service:
        _, labels, value = (await scraped(service))["vllm:cache_config_info"]
    size, number = int(labels["block_size"]), int(labels["num_gpu_blocks"])
    assert value == 1
    assert size <= 64
    assert size * number == CONFIG.max_streams * service.engine.context


async def test_a_router_that_asks_for_the_models_can_ask_the_first_one(door: Door) -> None:
    async with by_hand(door, config=CONFIG) as service:
        listed = (await service.client.request("GET", "/v1/models")).json()
        assert listed["object"] == "list"
        (model,) = listed["data"]
        assert model["object"] == "model"
        assert isinstance(model["created"], int)
        answer = await reply_to(service, "/v1/completions", model=model["id"], prompt="hello")
    assert answer.json()["model"] == model["id"]


async def test_whole_answers_of_both_apis_say_what_they_have_used(door: Door) -> None:
    async with by_hand(door, config=CONFIG) as service:
        completion = (await reply_to(service, "/v1/completions", prompt="hello")).json()
        messages = [{"role": "user", "content": "hello"}]
        chat = (await reply_to(service, "/v1/chat/completions", messages=messages)).json()
    assert completion["choices"][0]["text"] == chat["choices"][0]["message"]["content"] == "Hello, world!"
    assert completion["usage"]["completion_tokens"] == chat["usage"]["completion_tokens"] == 4


async def test_a_streams_last_chunk_has_the_usage_that_the_gateway_counts(door: Door) -> None:
    """The inference extension makes its clients request it with stream_options."""
    async with by_hand(door, config=CONFIG) as service:
        answer = await reply_to(
            service, "/v1/completions", prompt="hello", stream=True, stream_options={"include_usage": True}
        )
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, done = [line for line in answer.body.decode().splitlines() if line.startswith("data: ")]
    assert done == "data: [DONE]"
    assert json.loads(chunks[-1].removeprefix("data: "))["usage"]["completion_tokens"] == 4


async def test_a_pod_that_takes_no_requests_says_so_and_is_still_alive(door: Door) -> None:
    """Readiness takes it out of the pool; liveness must not restart it, and the scrape goes on."""
    async with by_hand(door, config=CONFIG) as service:
        service.driver._status.refuse("shutting down")
        assert (await service.client.request("GET", "/health")).status == 503
        assert (await service.client.request("GET", "/live")).status == 200
        assert (await service.client.request("GET", "/metrics")).status == 200


async def test_the_gateways_request_id_stands_in_the_answer(door: Door) -> None:
    async with by_hand(door, config=CONFIG) as service:
        answer = await service.client.post(prompt="hello", headers={"x-request-id": "of-the-gateway"})
    assert answer.headers["x-request-id"] == "of-the-gateway"
