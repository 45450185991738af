"""Metrics, log lines and traces, the same from both doors."""

import json
import logging
import re
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from config import Config
from interface.engine import Counters
from interface.events import Finished, Token
from serving.logs import JsonFormatter
from serving.metrics import Metrics, State
from serving.request_log import RequestLog
from tests.support.asgi_client import Client, until
from tests.support.http_client import Connection
from tests.support.serving import DOORS, Door, by_hand, in_a_process, wait_until

pytestmark = pytest.mark.anyio
DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana.json"


async def samples_of(client: Client) -> dict[str, float]:
    """Every sample of /metrics by its name and labels."""
    answer = await client.request("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


@pytest.mark.parametrize(("tokens", "usage"), [(0, 0.0), (15, 0.75), (30, 1.0)])
def test_the_usage_of_the_cache_is_at_most_all_of_it(tokens: int, usage: float) -> None:
    """All choices of a request count until the last one has ended, so they may be more than there are slots."""
    state = State(
        Counters(2, 0, 0), is_ready=True, has_failed=False, cache_tokens=tokens, slots=2, context=10, model="a-model"
    )
    assert f"engine_cache_usage {usage}\n" in Metrics().text(state).decode()


async def test_what_happened_is_counted(door: Door) -> None:
    async with by_hand(door, config=Config(model="a/model", max_streams=4)) as service:
        await service.client.post(prompt="hello there", stream=True)
        await service.client.post(prompt="count 9", max_tokens=3)
        await service.client.post(prompt="")
        await service.client.request("GET", "/nothing")
        service.engine.hold()
        async with service.client.open_generate("hello") as leaver:
            await until(lambda: service.engine.counters().running == 1)
            during = await samples_of(service.client)
            leaver.disconnect()
            await leaver.end()
        service.engine.release()
        after = await samples_of(service.client)
    assert during["engine_running{}"] == during["vllm:num_requests_running{model_name=a/model}"] == 1
    assert during["vllm:num_requests_waiting{model_name=a/model}"] == 0
    assert during["vllm:cache_config_info{block_size=16,num_gpu_blocks=1024}"] == 1
    assert after["engine_requests_total{finish_reason=stop}"] == 1
    assert after["engine_requests_total{finish_reason=length}"] == 1
    assert after["engine_requests_total{finish_reason=abort}"] == 1
    assert after["engine_refusals_total{status=422}"] == 1
    assert after["engine_refusals_total{status=404}"] == 1
    assert after["engine_prompt_tokens_total{}"] == 2 + 2 + 1
    assert after["engine_generated_tokens_total{}"] == 4 + 3
    assert after["engine_time_to_first_token_seconds_count{}"] == 2
    assert after["engine_inter_token_seconds_count{}"] == 3 + 2
    assert after["engine_request_seconds_count{}"] == 3
    assert after["engine_steps_total{}"] >= 4
    assert after["engine_ready{}"] == 1


async def test_the_cache_in_use_is_that_of_the_running_sequences(door: Door) -> None:
    async with by_hand(door, config=Config(max_streams=1)) as service:
        service.engine.hold()
        async with service.client.open_generate("count 300", max_tokens=300) as running:
            await until(lambda: service.engine.counters().running == 1)
            service.engine.release(100)
            await until(lambda: service.engine.counters().generated_tokens == 100)
            for _ in range(101):
                await running.next_message()
            usage = (await samples_of(service.client))["engine_cache_usage{}"]
            assert usage == pytest.approx(102 / 4096)
            service.engine.release()
            await running.end()
        assert (await samples_of(service.client))["engine_cache_usage{}"] == 0


async def test_the_dashboard_asks_for_nothing_that_is_not_there(door: Door) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    names = {
        name for panel in panels for target in panel["targets"] for name in re.findall(r"engine_\w+", target["expr"])
    }
    async with by_hand(door) as service:
        await service.client.post(prompt="hello")
        await service.client.post(prompt="")
        known = {name.partition("{")[0] for name in await samples_of(service.client)}
    assert names
    assert names - known == set()


async def test_several_tokens_in_one_event_are_counted_when_the_engine_tells_them() -> None:
    log = RequestLog("an-id")
    for index in (0, 1, 1):
        log.record(Token("emoji", None, 1.0, is_first=True, index=index))
    assert log.completion_tokens == 3
    log.record(Finished("stop", 7, 5, 1, 2, 3, index=1))
    assert log.completion_tokens == 6


async def test_a_refusal_leaves_a_line_with_its_id(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "engine.requests")
    async with by_hand(door) as service:
        await service.client.post(prompt="", headers={"x-request-id": "mine-1"})
        await service.client.post(prompt="hello")
    (record,) = [record for record in caplog.records if record.name == "engine.requests"]
    assert record.getMessage().startswith("refused request_id=mine-1 method=POST status=422 ms=")


async def test_a_probe_that_hears_that_the_server_is_not_ready_is_no_refusal(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "engine.requests")
    async with by_hand(door) as service:
        await service.client.post(prompt="explode")
        await until(lambda: service.driver.status != "ok", "the end of the engine")
        for path in ("/health", "/live"):
            assert (await service.client.request("GET", path)).status == 503
        refused = await service.client.post(prompt="hello", headers={"x-request-id": "mine-1"})
        assert refused.status == 500
        after = await samples_of(service.client)
    (record,) = [record for record in caplog.records if record.name == "engine.requests"]
    assert "request_id=mine-1" in record.getMessage()
    assert after["engine_refusals_total{status=500}"] == 2  # the request that ended the engine is one
    assert "engine_refusals_total{status=503}" not in after


def test_a_line_of_json_says_the_same_in_fields() -> None:
    record = logging.LogRecord("engine.access", logging.INFO, "", 0, "generation %s", ("a=1",), None)
    record.fields = {"request_id": "mine", "prompt_tokens": 3}
    content = json.loads(JsonFormatter().format(record))
    assert content["message"] == "generation a=1"
    assert (content["level"], content["logger"]) == ("info", "engine.access")
    assert (content["request_id"], content["prompt_tokens"]) == ("mine", 3)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", content["time"])


@pytest.mark.parametrize("name", DOORS)
def test_with_json_every_line_of_the_log_is_an_object(name: str) -> None:
    arguments = ["-m", "uvicorn", "--factory", "tests.support.serving:scripted_app", "--port", "0"]
    with in_a_process(arguments, {"DOOR": name, "ENGINE_LOG_FORMAT": "json"}) as process:
        with Connection(process.port) as connection:
            wait_until(lambda: connection.request("GET", "/health").status == 200)
            connection.send_generate("hello", stream=False)
            connection.read_response()
        wait_until(lambda: "finish_reason" in process.log)
        lines = process.log.partition("running on")[2].splitlines()[1:]
    objects = [json.loads(line) for line in lines]
    assert any(record.get("finish_reason") == "stop" for record in objects)
    assert not any("hello" in line for line in lines)


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    found = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    trace.set_tracer_provider(provider)
    return found


async def test_a_request_is_a_span_with_its_phases_in_the_callers_trace(
    door: Door, exporter: InMemorySpanExporter
) -> None:
    exporter.clear()
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with by_hand(door) as service:
        await service.client.post(prompt="hello", headers={"traceparent": parent})
    *phases, request = sorted(exporter.get_finished_spans(), key=lambda span: span.name == "POST /generate")
    assert request.name == "POST /generate"
    assert {span.name for span in phases} == {"queue", "prefill", "decode"}
    assert all(format(span.context.trace_id, "032x") == parent.split("-")[1] for span in [request, *phases])
    assert request.parent is not None
    assert format(request.parent.span_id, "016x") == parent.split("-")[2]
    assert request.attributes is not None
    assert request.attributes["http.response.status_code"] == 200
