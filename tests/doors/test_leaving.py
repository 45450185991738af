"""Clients that leave, or stop reading: their request ends, and no other does."""

import asyncio
import logging

import pytest

from config import Config
from interface.engine import Counters
from study.common.engine import HELLO, ScriptedEngine
from tests.support.asgi_client import JSON, Server, events_of, until
from tests.support.by_message import ANSWERS, any_server, expect_start, streaming_or_not, submitted
from tests.support.serving import Door, by_hand
from tests.support.slow_tokenizer import SlowTokenizer

pytestmark = pytest.mark.anyio


@any_server
@pytest.mark.parametrize("pieces", [0, 1, 2])
async def test_a_client_that_leaves_while_it_sends_its_body_is_answered_nothing_and_not_logged_as_refused(
    door: Door, server: Server, pieces: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "engine.requests")
    async with by_hand(door) as service, service.client.open("POST", "/generate", JSON, server) as exchange:
        for piece in (b'{"prompt"', b': "hello"}')[:pieces]:
            exchange.send_body(piece, more_body=True)
        exchange.disconnect()
        await exchange.end()
        assert exchange.sent == []
        assert service.engine.prompts == []
    assert [record for record in caplog.records if record.name == "engine.requests"] == []


@any_server
@streaming_or_not
async def test_a_client_that_leaves_in_the_queue_stops_its_request(door: Door, server: Server, stream: bool) -> None:
    async with by_hand(door, ScriptedEngine(slots=1)) as service:
        service.engine.hold()
        async with (
            submitted(service, "hello", stream=False) as neighbour,
            submitted(service, "count 300", stream, server) as leaver,
        ):
            await until(lambda: service.engine.counters() == Counters(running=1, waiting=1, generated_tokens=0))
            leaver.disconnect()
            await leaver.end()
            await until(lambda: service.engine.aborted == [2])
            service.engine.release()
            assert (await neighbour.response()).json()["text"] == "".join(HELLO)
        assert service.engine.counters() == Counters(0, 0, generated_tokens=len(HELLO))


@any_server
@streaming_or_not
async def test_a_client_that_leaves_in_prefill_stops_its_request(door: Door, server: Server, stream: bool) -> None:
    async with by_hand(door) as service:
        service.engine.hold()
        async with (
            submitted(service, "hello", stream=False) as neighbour,
            submitted(service, "count 300", stream, server) as leaver,
        ):
            await until(lambda: service.engine.counters().running == 2)
            if stream:
                await expect_start(leaver)
            leaver.disconnect()
            await leaver.end()
            await until(lambda: service.engine.aborted == [2])
            service.engine.release()
            assert (await neighbour.response()).json()["text"] == "".join(HELLO)
        health = (await service.client.request("GET", "/health")).json()
    assert (health["running"], health["waiting"], health["generated_tokens"]) == (0, 0, len(HELLO))


@any_server
@streaming_or_not
async def test_a_client_that_leaves_in_decode_stops_its_request(door: Door, server: Server, stream: bool) -> None:
    async with by_hand(door) as service:
        service.engine.hold()
        async with (
            submitted(service, "hello", stream=True) as neighbour,
            submitted(service, "count 300", stream, server) as leaver,
        ):
            await until(lambda: service.engine.counters().running == 2)
            service.engine.release(2)
            await until(lambda: service.engine.generated_tokens == 4)
            if stream:
                await expect_start(leaver)
                assert [(await leaver.next_event())["token"] for _ in range(2)] == ["0 ", "1 "]
            sent_before = len(leaver.sent)
            leaver.disconnect()
            await leaver.end()
            assert len(leaver.sent) == sent_before
            await until(lambda: service.engine.aborted == [2])
            service.engine.release()
            *tokens, _ = events_of((await neighbour.response()).body)
            assert [token["token"] for token in tokens] == HELLO
        health = (await service.client.request("GET", "/health")).json()
    assert health["generated_tokens"] == len(HELLO) + 2


@any_server
async def test_a_client_that_leaves_while_tokens_stream_is_sent_little_more(door: Door, server: Server) -> None:
    """The engine may run far ahead, but the door must not go on sending its tokens."""
    async with by_hand(door) as service:
        service.engine.hold()
        async with service.client.open_generate("count 4000", True, server, max_tokens=4000) as exchange:
            await expect_start(exchange)
            service.engine.release(3)
            for _ in range(3):
                await exchange.next_event()
            calls_before = exchange.send_calls
            exchange.disconnect()
            service.engine.release(2000)  # but not to the end, however long the loop waits for a core
            await exchange.end()
        service.engine.release()
        await until(lambda: service.engine.counters().running == 0)
        assert service.engine.aborted == [1]
        assert service.engine.generated_tokens < 4000
    assert exchange.send_calls - calls_before < 100


async def test_a_client_whose_leaving_shows_only_in_send_stops_its_request(door: Door) -> None:
    """Spec 2.4 lets a server raise OSError from send; a disconnect message may come much later."""
    async with by_hand(door) as service:
        service.engine.hold()
        server = Server("2.4", "raises")
        async with service.client.open_generate("count 300", True, server, max_tokens=300) as exchange:
            await expect_start(exchange)
            exchange.is_disconnected = True
            service.engine.release(1)
            await exchange.end()
            await until(lambda: service.engine.aborted == [1])


@any_server
@pytest.mark.parametrize(("method", "path", "body", "headers", "status"), ANSWERS[:-1])
async def test_an_answer_to_a_client_that_has_left_is_lost_without_an_error(
    door: Door, server: Server, method: str, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    async with by_hand(door) as service, service.client.open(method, path, headers, server) as exchange:
        exchange.send_body(body)
        exchange.disconnect()
        await exchange.end()
        assert exchange.sent == []
        await until(lambda: service.engine.counters() == Counters(0, 0, service.engine.generated_tokens))


@any_server
@streaming_or_not
async def test_a_client_that_leaves_while_its_prompt_is_tokenized_leaves_nothing_running(
    door: Door, server: Server, stream: bool
) -> None:
    engine = SlowTokenizer()
    async with by_hand(door, engine) as service:
        engine.hold()
        async with service.client.open_generate("hello", stream, server) as exchange:
            await until(engine.is_encoding.is_set)
            exchange.disconnect()
            engine.may_encode.set()
            await exchange.end()
            assert exchange.sent == []
        await until(lambda: engine.aborted == [1])
        assert engine.counters() == Counters(0, 0, 0)


async def test_a_prompt_that_takes_long_to_tokenize_does_not_hold_up_health(door: Door) -> None:
    engine = SlowTokenizer()
    async with by_hand(door, engine) as service, service.client.open_generate("hello", stream=False) as exchange:
        await until(engine.is_encoding.is_set)
        assert (await service.client.request("GET", "/health")).status == 200
        engine.may_encode.set()
        assert (await exchange.response()).status == 200


@streaming_or_not
async def test_a_request_that_the_server_cancels_stops(door: Door, stream: bool) -> None:
    async with by_hand(door) as service:
        service.engine.hold()
        async with service.client.open_generate("hello", stream) as exchange:
            await until(lambda: service.engine.counters().running == 1)
            exchange.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await exchange.task
            await until(lambda: service.engine.aborted == [1])


async def test_a_client_that_does_not_read_is_cut_off(door: Door) -> None:
    async with by_hand(door, config=Config(stall=0.02)) as service:
        async with service.client.open_generate("count 300", max_tokens=300) as stuck:
            await expect_start(stuck)
            stuck.stop_reading()
            await stuck.end()
        async with service.client.open_generate("hello") as reader:
            assert len(events_of((await reader.response()).body)) == len(HELLO) + 1


async def test_a_client_that_does_not_read_is_cut_off_while_the_engine_goes_on(door: Door) -> None:
    async with by_hand(door, config=Config(stall=0.02)) as service:
        service.engine.hold()
        async with service.client.open_generate("count 4000", max_tokens=4000) as stuck:
            await expect_start(stuck)
            stuck.stop_reading()
            service.engine.release(1)
            await stuck.end()
            await until(lambda: service.engine.aborted == [1])


async def test_a_client_that_reads_is_not_cut_off_however_slow_the_engine_is(door: Door) -> None:
    async with by_hand(door, config=Config(stall=0.01, heartbeat=0.005)) as service:
        service.engine.hold()
        async with service.client.open_generate("hello") as exchange:
            for _ in range(20):
                await exchange.next_message()  # the start, then heartbeats: ten times `stall`
            service.engine.release()
            assert len(events_of((await exchange.response()).body)) == len(HELLO) + 1
