"""Every part raises, once and for good: what the client sees, what the probes say, whether the next request works."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from backends.stepped import SteppedService
from config import Config
from engine import Engine
from interface.engine import EngineService
from serving.request_log import RequestLog
from serving.transcript.asgi import Transcript
from serving.transcript.records import Record
from tests.support.asgi_client import JSON, Client, Response, lifespan, until
from tests.support.serving import Door, Service, assemble
from tests.support.tiny_models import tiny_engine

pytestmark = pytest.mark.anyio
FOR_GOOD = 10**9
ONE_REQUEST = {"prompt": "hello", "max_tokens": 5}


class Fault:
    """Stands in for a function: raises the first `times` times that it is called, and then does what it should."""

    def __init__(self, function: Callable[..., Any], times: int) -> None:
        self.function = function
        self.left = times

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self.left > 0:
            self.left -= 1
            raise ZeroDivisionError("injected")
        return self.function(*arguments, **options)

    def __get__(self, instance: object, owner: type) -> Callable[..., Any]:
        """Stand in for a method too, where it is a class that is broken."""
        return partial(self, instance)


@dataclass
class Parts:
    """What there is to break."""

    engine: Engine
    carrier: SteppedService
    service: Service


@dataclass(frozen=True)
class Place:
    """Where a fault is, and what it does: the client's status, and whether the service survives it for good."""

    find: Callable[[Parts], tuple[Any, str]]
    status: int
    survives: bool = True
    """Whether the service is still ready after it has raised again and again."""


PLACES = {
    "forward": Place(lambda parts: (parts.engine._runner, "forward"), 500, survives=False),
    "step": Place(lambda parts: (parts.engine._runner, "step"), 500, survives=False),
    "tokenizer": Place(lambda parts: (parts.engine._text.prompts, "render_checked"), 500),
    "reader": Place(lambda parts: (parts.engine._text.prompts, "decoder"), 500),
    "delivery": Place(lambda parts: (RequestLog, "record"), 500),
    "step's count": Place(lambda parts: (parts.service.driver.metrics, "step"), 200),
    "count": Place(lambda parts: (parts.service.driver.metrics, "generation"), 200),
    "counters": Place(lambda parts: (parts.service.driver.metrics, "answer"), 200),
    "transcript": Place(lambda parts: (Record, "_write"), 200),
}


def assembled(door: Door) -> tuple[Parts, Client]:
    engine = tiny_engine(max_streams=2)
    carrier = SteppedService(engine)
    service = assemble(door, load=lambda config: carrier, config=Config(max_streams=2))
    return Parts(engine, carrier, service), Client(Transcript(service.app))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", PLACES)
async def test_a_part_that_raises_once_ends_no_more_than_one_request(
    door: Door, name: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = PLACES[name]
    parts, client = assembled(door)
    async with lifespan(parts.service.app):
        await until(lambda: parts.service.driver.status == "ok")
        owner, attribute = place.find(parts)
        monkeypatch.setattr(owner, attribute, Fault(getattr(owner, attribute), 1))
        first = await answered(client, stream)
        assert says_failure(first) == (place.status == 500)
        assert (await client.request("GET", "/health")).status == 200
        assert (await client.request("GET", "/live")).status == 200
        getattr(owner, attribute).left = 0
        assert not says_failure(await answered(client, stream))
        assert parts.service.driver.exchanges.open == set()


@pytest.mark.parametrize("name", PLACES)
async def test_a_part_that_raises_for_good_lets_nobody_wait(
    door: Door, name: str, monkeypatch: pytest.MonkeyPatch, ends: list[str]
) -> None:
    place = PLACES[name]
    parts, client = assembled(door)
    async with lifespan(parts.service.app):
        await until(lambda: parts.service.driver.status == "ok")
        owner, attribute = place.find(parts)
        monkeypatch.setattr(owner, attribute, Fault(getattr(owner, attribute), FOR_GOOD))
        for _ in range(4):
            assert says_failure(await answered(client, stream=True)) == (place.status == 500)
        live = await client.request("GET", "/live")
        assert (live.status == 200) == place.survives
        assert ("begin" in ends) == (not place.survives)


async def test_events_that_cannot_reach_the_loop_are_a_failure_for_good(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, client = assembled(door)
    async with lifespan(parts.service.app):
        await until(lambda: parts.service.driver.status == "ok")

        class Loop:
            is_closed = staticmethod(lambda: False)
            call_soon_threadsafe = Fault(parts.carrier._loop.call_soon_threadsafe, FOR_GOOD)

        monkeypatch.setattr(parts.carrier, "_loop", Loop())
        assert says_failure(await answered(client, stream=True))
        assert "events did not reach the loop" in parts.service.driver.status


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_template_that_raises_is_the_requests_own_matter(door: Door, stream: bool) -> None:
    """The tiny model has no template, so that a conversation cannot be rendered."""
    parts, client = assembled(door)
    async with lifespan(parts.service.app):
        await until(lambda: parts.service.driver.status == "ok")
        body = {"messages": [{"role": "user", "content": "hi"}], "stream": stream}
        refused = await client.request("POST", "/v1/chat/completions", json.dumps(body).encode(), JSON)
        assert refused.status == 400
        assert not says_failure(await answered(client, stream))


async def test_a_load_that_raises_is_told_by_both_probes(door: Door) -> None:
    def load(config: Config) -> EngineService:
        raise ZeroDivisionError("injected")

    service = assemble(door, load=load)
    async with lifespan(service.app):
        await until(lambda: service.driver.vitals().has_failed)
        for path in ("/health", "/live"):
            assert (await service.client.request("GET", path)).status == 503
        assert (await service.client.post(prompt="hello")).status == 503


async def answered(client: Client, stream: bool) -> Response:
    """The answer; an application that raises has answered before."""
    exchange = client.open("POST", "/generate", JSON)
    exchange.send_body(json.dumps({**ONE_REQUEST, "stream": stream}).encode())
    with suppress(ZeroDivisionError):
        await exchange.end()
    return exchange.collected()


def says_failure(answer: Response) -> bool:
    return answer.status >= 500 or b'"error"' in answer.body
