"""A stream, message by message: order, timing, and how it ends."""

import asyncio

import pytest

from config import Config
from study.common.engine import HELLO
from tests.support.asgi_client import events_of, until
from tests.support.by_message import expect_start
from tests.support.serving import Door, by_hand

pytestmark = pytest.mark.anyio


async def test_a_stream_is_a_first_token_next_tokens_a_closing_event_and_done(door: Door) -> None:
    async with by_hand(door) as service, service.client.open_generate("hello there") as exchange:
        response = await exchange.response()
    assert response.status == 200
    first, *others, closing = events_of(response.body)
    assert list(first) == ["token", "token_id", "prefill_time_ms"]
    assert [list(event) for event in others] == [["token", "token_id", "step_ms"]] * 3
    assert [(event["token"], event["token_id"]) for event in (first, *others)] == [
        (text, number) for number, text in enumerate(HELLO)
    ]
    assert list(closing) == ["finish_reason", "prompt_tokens", "cached_tokens", "completion_tokens", "total_time_ms"]
    assert (closing["finish_reason"], closing["prompt_tokens"], closing["completion_tokens"]) == ("stop", 2, 4)


async def test_each_event_of_a_stream_is_a_message_of_its_own(door: Door) -> None:
    async with by_hand(door) as service, service.client.open_generate("hello") as exchange:
        await exchange.end()
    start, *bodies, last = exchange.sent
    assert start["type"] == "http.response.start"
    assert [body["body"].count(b"\n\n") for body in bodies] == [1] * (len(HELLO) + 2)
    assert all(body["more_body"] is True for body in bodies)
    assert bodies[-1]["body"] == b"data: [DONE]\n\n"
    assert (last["body"], last["more_body"]) == (b"", False)


async def test_the_headers_of_a_stream_leave_before_its_first_token(door: Door) -> None:
    async with by_hand(door) as service:
        service.engine.hold()
        async with service.client.open_generate("hello") as exchange:
            await expect_start(exchange)
            assert service.engine.generated_tokens == 0


async def test_the_headers_of_a_stream_keep_proxies_from_holding_it_back(door: Door) -> None:
    async with by_hand(door) as service, service.client.open_generate("hello") as exchange:
        headers = (await exchange.response()).headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache, no-transform"
    assert headers["x-accel-buffering"] == "no"
    assert "content-length" not in headers


async def test_each_token_leaves_when_it_is_made(door: Door) -> None:
    async with by_hand(door) as service:
        service.engine.hold()
        async with service.client.open_generate("hello") as exchange:
            await expect_start(exchange)
            for made, text in enumerate(HELLO, start=1):
                service.engine.release(1)
                assert (await exchange.next_event())["token"] == text
                assert service.engine.generated_tokens == made


async def test_line_breaks_in_a_token_break_no_event(door: Door) -> None:
    async with by_hand(door) as service, service.client.open_generate("newlines") as exchange:
        *tokens, _ = events_of((await exchange.response()).body)
    assert [token["token"] for token in tokens] == ["one\n\ntwo\r\nthree", "\u2028", "data: x\n\n"]


async def test_silence_is_filled_with_comments(door: Door) -> None:
    async with by_hand(door, config=Config(heartbeat=0.01)) as service:
        service.engine.hold()
        async with service.client.open_generate("hello") as exchange:
            await expect_start(exchange)
            for _ in range(3):
                assert (await exchange.next_message())["body"] == b": heartbeat\n"
            service.engine.release()
            *tokens, closing = events_of((await exchange.response()).body)
    assert [token["token"] for token in tokens] == HELLO
    assert closing["finish_reason"] == "stop"


async def test_an_unstreamed_answer_has_no_heartbeat(door: Door) -> None:
    async with by_hand(door, config=Config(heartbeat=0.005)) as service:
        service.engine.hold()
        async with service.client.open_generate("hello", stream=False) as exchange:
            await until(lambda: service.engine.counters().running == 1)
            await asyncio.sleep(0.05)  # time for ten of them
            assert exchange.sent == []
            service.engine.release()
            assert (await exchange.response()).json()["text"] == "".join(HELLO)


async def test_a_stream_that_is_never_silent_has_no_comments(door: Door) -> None:
    async with by_hand(door) as service, service.client.open_generate("count 300", max_tokens=300) as exchange:
        assert b"\n:" not in (await exchange.response()).body


async def test_an_error_after_the_start_is_an_event_and_then_done(door: Door) -> None:
    async with by_hand(door) as service, service.client.open_generate("explode") as exchange:
        token, error = events_of((await exchange.response()).body)
    assert token["token"] == HELLO[0]
    assert error == {"error": {"message": "RuntimeError: the script says so", "type": "engine_error"}}


async def test_an_error_before_an_unstreamed_answer_is_500(door: Door) -> None:
    async with by_hand(door) as service:
        response = await service.client.post(prompt="explode")
    assert (response.status, response.json()) == (500, {"detail": "RuntimeError: the script says so"})
