"""The load client: what it sends, what it counts, and what it reports as a failure."""

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from study.common.client import (
    Exchange,
    Health,
    Load,
    LoadFailed,
    Pulses,
    Stream,
    Target,
    ask_health,
    asking,
    load,
    percentile,
    whole,
)
from study.common.http_servers import serving
from tests.support.asgi_client import until

pytestmark = pytest.mark.anyio

OURS: list[dict[str, Any]] = [
    {"token": "", "token_id": 3, "prefill_time_ms": 90.0},
    {"token": "é", "token_id": 4, "step_ms": 20.0},
    {"finish_reason": "length", "prompt_tokens": 75, "completion_tokens": 2, "total_time_ms": 400.0},
]
OPENAI: list[dict[str, Any]] = [
    {"choices": [{"text": "w1"}]},
    {"choices": [{"text": " w2 w3"}]},
    {"choices": [{"text": "", "finish_reason": "length"}], "usage": {"completion_tokens": 3}},
]
CHAT: list[dict[str, Any]] = [
    {"choices": [{"delta": {"role": "assistant"}}]},
    {"choices": [{"delta": {"content": "w1"}}]},
    {"choices": [{"delta": {"content": "w2"}}], "usage": None},
]


def framed(event: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(event)}\n\n".encode()


def received(events: list[dict[str, Any]]) -> Exchange:
    """An exchange whose events came at 1.1 s, 1.2 s and so on."""
    exchange = Exchange(asyncio.StreamReader(), asked_at=1.0)
    exchange.received = [(1.1 + number / 10, framed(event)) for number, event in enumerate(events)]
    exchange.received.append((2.0, b"data: [DONE]\n\n"))
    return exchange


async def test_the_tokens_of_a_stream_are_those_that_the_server_reports_or_else_those_that_came() -> None:
    ours, theirs, chat = (received(events).stream() for events in (OURS, OPENAI, CHAT))
    assert (ours.tokens, theirs.tokens, chat.tokens) == (2, 3, 2)
    assert ours.tokens_at == theirs.tokens_at == [1.1, pytest.approx(1.2)]
    assert ours.first_token_after == pytest.approx(0.1)
    assert ours.gaps == [pytest.approx(0.1)]
    assert ours.closing == OURS[-1]
    assert ours.since(1.0).tokens_at == [pytest.approx(0.1), pytest.approx(0.2)]


async def test_an_event_counts_from_when_it_is_whole() -> None:
    exchange = Exchange(asyncio.StreamReader(), asked_at=0.0)
    frame = framed(OURS[1])
    exchange.received = [(1.0, frame[:10]), (2.0, frame[10:]), (3.0, framed(OURS[2]))]
    assert exchange.stream().tokens_at == [2.0]


@pytest.mark.parametrize("events", [[], [{"error": {"message": "shutting down", "type": "shutdown"}}]])
async def test_a_stream_that_does_not_end_well_is_no_measurement(events: list[dict[str, Any]]) -> None:
    with pytest.raises(LoadFailed):
        received(events).stream()


async def test_the_figures_are_of_all_streams_together() -> None:
    streams = [Stream(0.0, 0.0, [0.1, 0.2, 0.4], 0.4, 3), Stream(0.0, 0.0, [0.3, 0.4], 0.4, 2)]
    figures = Load(streams, seconds=0.5, health=[0.001, 0.002, 0.009]).figures()
    assert figures["tokens_per_second"] == pytest.approx(10)
    assert figures["ttft_max_ms"] == pytest.approx(300)
    assert figures["gap_p50_ms"] == pytest.approx(100)
    assert figures["gap_p99_ms"] == pytest.approx(200)
    assert figures["health_p99_ms"] == pytest.approx(9)
    assert percentile([3, 1, 2], 50) == 2


async def test_each_kind_of_server_gets_the_body_that_it_knows() -> None:
    ours = Target.on_port(1)
    assert ours.body("p", 4)["ignore_eos"] is True
    assert ours.body("p", 4, stream=False)["stream"] is False
    theirs = Target("http://127.0.0.1:1/v1/completions", "some/model")
    assert theirs.body("p", 4)["model"] == "some/model"
    assert "ignore_eos" not in theirs.body("p", 4)
    assert theirs.health == "http://127.0.0.1:1/health"


# --- On a socket ------------------------------------------------------------------------------------------------------


async def service(scope: Scope, receive: Receive, send: Send) -> None:
    """Two tokens to those that ask for two, a 503 to those that ask for more, and /health."""
    if scope["path"] == "/health":
        body = json.dumps({"status": "ok", "running": 0, "generated_tokens": 2}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
        return
    request = json.loads((await receive())["body"])
    await send({"type": "http.response.start", "status": 200 if request["max_tokens"] == 2 else 503, "headers": []})
    for event in OURS:
        await send({"type": "http.response.body", "body": framed(event), "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def test_a_load_reads_every_stream_and_asks_for_health_meanwhile() -> None:
    async with serving(service) as port:
        target = Target.on_port(port)
        found = await load(target, ["one", "two", "three"], 2)
        assert await ask_health(target) == Health("ok", 0, 2)
    assert [len(stream.tokens_at) for stream in found.streams] == [2, 2, 2]
    assert all(
        stream.asked_at < stream.headers_at <= stream.tokens_at[0] <= stream.ended_at for stream in found.streams
    )
    assert found.health


async def test_a_refusal_fails_the_load_and_shows_what_the_server_said() -> None:
    async with serving(service) as port:
        target = Target.on_port(port)
        with pytest.raises(LoadFailed, match=r"got 503: b.*completion_tokens"):
            await whole(target, target.body("x", 3))


async def test_a_client_may_stop_reading_at_a_token() -> None:
    async with serving(service) as port:
        target = Target.on_port(port)
        async with asking(target, target.body("x", 2)) as exchange:
            await exchange.read_tokens(1)
            assert exchange.events()[0][1] == OURS[0]


@pytest.mark.parametrize(("overlap", "most_at_once"), [(True, 5), (False, 1)])
async def test_questions_about_health_wait_for_each_other_only_if_they_are_told_to(
    overlap: bool, most_at_once: int
) -> None:
    at_once, most, enough = 0, 0, asyncio.Event()

    async def slow_health(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        if most_at_once in (at_once, 1):
            enough.set()
        await enough.wait()
        at_once -= 1
        await service(scope, receive, send)

    async with serving(slow_health) as port, Pulses(Target.on_port(port), 0.001, overlap) as pulses:
        await until(lambda: len(pulses.pulses) >= 5)
    assert (most >= most_at_once) if overlap else (most == 1)
    assert all(pulse.health.status == "ok" for pulse in pulses.pulses)
