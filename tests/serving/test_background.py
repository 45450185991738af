"""Requests that go on without their client: what they count, and how they end."""

import asyncio
import json
import re
import threading
from collections.abc import Sequence

import pytest

from config import Config
from contract.sse import HEARTBEAT
from interface.calls import InBackground, Recall
from interface.events import Event, Failed, Finished
from interface.requests import GenerationRequest, text_request
from serving import following, sync_driver
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import JSON, PATIENCE, Client, until
from tests.support.driving import all_events, driving, never, signalled
from tests.support.openai_answers import named_events
from tests.support.serving import Door, by_hand
from tests.support.wsgi_client import pulled_by_hand

pytestmark = pytest.mark.anyio
PATH = "/v1/responses"


async def begun_in_the_background(client: Client) -> str:
    """Begin a stream in the background, leave it, and return its id."""
    async with client.open("POST", PATH, JSON) as stream:
        stream.send_body(b'{"input": "hello", "background": true, "stream": true}')
        await stream.next_message()
        id: str = named_events((await stream.next_message())["body"])[0]["response"]["id"]
        return id


class Listener(InBackground):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.wanted = True

    def take(self, event: Event) -> None:
        self.events.append(event)

    def is_wanted(self) -> bool:
        return self.wanted


class Later(Recall):
    """Has news at the last of some looks."""

    requests: Sequence[GenerationRequest] = ()
    has_news = False

    def __init__(self, looks: int) -> None:
        self._looks = looks

    def look(self) -> bool:
        self._looks -= 1
        self.has_news = self._looks == 0
        return not self.has_news


class Timed(Later):
    """The same, and a clock for which each look takes a second, and nothing else takes time."""

    now = 0

    def look(self) -> bool:
        self.now += 1
        return super().look()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None: ...


HEARTBEATS = [3, 6, 9, 10]
"""When there is something to send after ten looks, with a heartbeat of 2.5 s: the last time it is the news."""


class Broken(Listener):
    """Raises at the first event."""

    def take(self, event: Event) -> None:
        raise ZeroDivisionError


async def leave() -> None:
    """A client that leaves at once."""


async def test_a_client_that_leaves_or_waits_for_nothing_ends_nothing() -> None:
    engine, listener = ScriptedEngine(), Listener()
    async with driving(engine) as driver:
        engine.hold()
        waiting = await driver.submit([text_request("hello")], "an-id", listener)
        assert await waiting.run(waiting.result, never) == []
        leaving = await driver.submit([text_request("hello")], "an-id", listener)
        await leaving.run(never, leave)
        await until(lambda: driver.counters().running == 2)
        engine.release()
        await until(lambda: not driver.counters().running)
        await until(lambda: sum(isinstance(event, Finished) for event in listener.events) == 2)
        assert engine.aborted == []
        assert driver.metrics.finished["stop"] == 2


async def test_what_is_not_wanted_any_more_is_aborted_and_its_client_told_that_it_is_over() -> None:
    engine, listener = ScriptedEngine(), Listener()
    async with driving(engine) as driver:
        generation = await driver.submit([text_request("drip 3000", max_tokens=3000)], "an-id", listener)
        without_client = await driver.submit([text_request("drip 3000", max_tokens=3000)], "an-id", listener)
        await without_client.run(without_client.result, never)
        stream = asyncio.create_task(all_events(generation))
        await until(lambda: bool(listener.events))
        listener.wanted = False
        end = (await stream)[-1]
        assert isinstance(end, Finished)
        assert end.finish_reason == "abort"
        await until(lambda: len(engine.aborted) == 2)
        assert driver.metrics.finished["abort"] == 2


async def test_a_listener_that_raises_ends_its_own_request_and_no_other() -> None:
    engine = ScriptedEngine()
    async with driving(engine) as driver:
        engine.hold()
        broken = await driver.submit([text_request("hello")], "an-id", Broken())
        await broken.run(broken.result, never)
        whole = await driver.submit([text_request("hello")], "an-id")
        engine.release()
        assert isinstance((await all_events(whole))[-1], Finished)
        await until(lambda: driver.metrics.finished["engine_error"] == 1)
        assert driver.status == "ok"


async def test_the_end_of_the_server_is_the_end_of_what_goes_on() -> None:
    engine, listener = ScriptedEngine(), Listener()
    async with driving(engine) as driver:
        engine.hold()
        generation = await driver.submit([text_request("hello")], "an-id", listener)
        await generation.run(generation.result, never)
    (end,) = listener.events
    assert isinstance(end, Failed)
    assert end.kind == "shutdown"


async def test_a_response_in_the_background_counts_for_its_clients_quota_until_it_has_ended(door: Door) -> None:
    config = Config(api_keys=("right",), client_requests=1, client_tokens=1)
    async with by_hand(door, config=config) as service:
        service.engine.hold()
        headers = JSON | {"authorization": "Bearer right"}

        async def asked() -> int:
            body = b'{"input": "hello", "background": true}'
            return (await service.client.request("POST", PATH, body, headers)).status

        assert await asked() == 200
        assert await asked() == 429, "one is still being made"
        service.engine.release()
        await until(lambda: service.driver.metrics.finished["stop"] == 1)
        answer = await service.client.request("GET", f"{PATH}/resp_none", b"", headers)
        assert answer.status == 429, "its tokens are to be paid for"
        assert "tokens per minute" in answer.json()["error"]["message"]


async def test_what_the_engine_refuses_is_refused_and_counted_no_longer(door: Door) -> None:
    async with by_hand(door, config=Config(api_keys=("right",), client_requests=1)) as service:
        headers = JSON | {"authorization": "Bearer right"}
        body = json.dumps({"input": "x " * 5000, "background": True}).encode()
        for _ in range(2):
            answer = await service.client.request("POST", PATH, body, headers)
            assert answer.status == 400


async def test_a_stream_that_is_read_again_has_a_heartbeat_while_nothing_comes(door: Door) -> None:
    async with by_hand(door, config=Config(heartbeat=0.05)) as service:
        service.engine.hold()
        id = await begun_in_the_background(service.client)
        async with service.client.open("GET", f"{PATH}/{id}?stream=true") as again:
            again.send_body(b"")
            while (await again.next_message()).get("body") != HEARTBEAT:
                pass
            service.engine.release()
            answer = await again.response()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert named_events(without_comments(answer.body))[-1]["type"] == "response.completed"


@pytest.mark.parametrize(("drain", "end"), [(PATIENCE, "response.completed"), (0.01, "response.failed")])
async def test_at_the_servers_end_a_stream_that_is_read_again_has_its_last_event(
    drain: float, end: str, door: Door
) -> None:
    async with by_hand(door, config=Config(drain=drain)) as service:
        service.engine.hold()
        id = await begun_in_the_background(service.client)
        async with service.client.open("GET", f"{PATH}/{id}?stream=true") as again:
            again.send_body(b"")
            await again.next_message()
            draining = asyncio.create_task(service.driver._shutdown.drain_when(signalled()))
            await until(lambda: service.driver.status == "shutting down")
            if end == "response.completed":
                service.engine.release()
            answer = await again.response()
            await draining
        assert named_events(without_comments(answer.body))[-1]["type"] == end


def without_comments(body: bytes) -> bytes:
    return re.sub(rb"(?m)^:.*\n", b"", body)


def test_the_wsgi_door_makes_it_while_its_client_waits() -> None:
    """It has no thread of its own for the engine, and no loop: nothing happens between two requests."""
    body = b'{"input": "hello", "background": true, "stream": true}'
    with pulled_by_hand() as service:
        whole = service.request("POST", PATH, body.replace(b', "stream": true', b""), JSON).json()
        assert (whole["status"], service.request("GET", f"{PATH}/{whole['id']}").json()) == ("completed", whole)
        streamed = service.request("POST", PATH, body, JSON)
        id = named_events(streamed.body)[0]["response"]["id"]
        again = service.request("GET", f"{PATH}/{id}?stream=true")
        assert without_comments(again.body) == streamed.body


def test_the_wsgi_door_ends_it_when_its_client_leaves() -> None:
    with pulled_by_hand() as service:
        with service.open("POST", PATH, b'{"input": "count 50", "background": true, "stream": true}', JSON) as stream:
            id = named_events(stream.next_block())[0]["response"]["id"]
        left = service.request("GET", f"{PATH}/{id}").json()
        assert left["status"] == "failed"
        assert "client has left" in left["error"]["message"]


async def test_a_stream_that_is_read_again_has_heartbeats_when_they_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Timed(looks=10)
    monkeypatch.setattr(following, "time", call)
    monkeypatch.setattr(following, "LOOK_EVERY", 0.0)
    async with driving(ScriptedEngine(), Config(heartbeat=2.5)) as driver:
        stream = await driver.begin(call, "a request")
        assert [call.now async for _ in stream.events()] == HEARTBEATS
        stream.close()


def test_at_the_wsgi_door_a_stream_without_news_has_heartbeats_too(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Timed(looks=10)
    monkeypatch.setattr(sync_driver, "time", call)
    with pulled_by_hand(config=Config(heartbeat=2.5)) as service:
        assert [call.now for _ in service.driver.begin(call, "a request").events()] == HEARTBEATS


class Slow(Listener):
    """Begins to read what it listens to while it is told of the end, and gives the reader time to be first."""

    reader: threading.Thread

    def take(self, event: Event) -> None:
        if isinstance(event, Finished):
            self.reader.start()
            self.reader.join(0.2)
        super().take(event)


def test_at_the_wsgi_door_its_client_gets_no_event_before_it_is_written() -> None:
    """The thread of another client may step the engine: the last frames would be missing."""
    listener = Slow()
    were_written: list[bool] = []

    def read() -> None:
        were_written.extend(event in listener.events for event in generation.events())

    with pulled_by_hand() as service:
        generation = service.driver.submit([text_request("hello")], "its request", listener)
        listener.reader = threading.Thread(target=read)
        service.driver.submit([text_request("count 30", max_tokens=30)], "another").result()
        listener.reader.join(PATIENCE)
        generation.close()
    assert were_written == [True] * 5  # the tokens of HELLO, and the end
