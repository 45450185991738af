"""Every part raises, once and permanently: the client's answer, the probes, and the next request."""

import json
from contextlib import suppress
from pathlib import Path

import pytest

from backends.stepped import SteppedService
from config import Config
from interface.engine import EngineService
from serving.transcript.asgi import Transcript
from tests.support.asgi_client import JSON, Client, Response, lifespan, until
from tests.support.faults import FOR_GOOD, PLACES, Fault, Parts, table
from tests.support.serving import Door, assemble
from tests.support.tiny_models import tiny_engine

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.anyio
ONE_REQUEST = {"prompt": "hello", "max_tokens": 5}
CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}


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
        assert says_failure(await answered(client, stream, place.path)) == place.is_felt
        assert (await client.request("GET", "/health")).status == 200
        assert (await client.request("GET", "/live")).status == 200
        getattr(owner, attribute).left = 0
        assert not says_failure(await answered(client, stream))
        assert parts.service.driver.exchanges.open == set()


@pytest.mark.parametrize("name", PLACES)
async def test_a_part_that_raises_for_good_leaves_no_request_waiting(
    door: Door, name: str, monkeypatch: pytest.MonkeyPatch, ends: list[str]
) -> None:
    place = PLACES[name]
    parts, client = assembled(door)
    async with lifespan(parts.service.app):
        await until(lambda: parts.service.driver.status == "ok")
        owner, attribute = place.find(parts)
        monkeypatch.setattr(owner, attribute, Fault(getattr(owner, attribute), FOR_GOOD))
        for _ in range(4):
            assert says_failure(await answered(client, True, place.path)) == place.is_felt_for_good
        if not place.survives:
            await until(lambda: parts.service.driver.vitals().has_failed)
        live = await client.request("GET", "/live")
        assert (live.status == 200) == place.survives
        assert ("begin 70" in ends) == (not place.survives)


def test_the_operations_text_has_the_table_of_these_faults() -> None:
    assert table() in (ROOT / "docs" / "operations.md").read_text()


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


async def test_a_load_that_raises_fails_both_probes(door: Door) -> None:
    def load(config: Config) -> EngineService:
        raise ZeroDivisionError("injected")

    service = assemble(door, load=load)
    async with lifespan(service.app):
        await until(lambda: service.driver.vitals().has_failed)
        for path in ("/health", "/live"):
            assert (await service.client.request("GET", path)).status == 503
        assert (await service.client.post(prompt="hello")).status == 500


async def answered(client: Client, stream: bool, path: str = "/generate") -> Response:
    """The answer; an application that raises has answered before."""
    body = ONE_REQUEST if path == "/generate" else CHAT
    exchange = client.open("POST", path, JSON)
    exchange.send_body(json.dumps({**body, "stream": stream}).encode())
    with suppress(ZeroDivisionError):
        await exchange.end()
    return exchange.collected()


def says_failure(answer: Response) -> bool:
    return answer.status >= 500 or b'"error"' in answer.body
