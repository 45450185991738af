"""The stand-ins for a model and for the article's server, in tests and in measurements."""

import gc
from collections.abc import Iterator

import pytest

from config import Config
from interface.engine import Sink
from interface.events import Event, Finished, Token
from interface.requests import GenerationRequest, SamplingParams, SequenceId, TextPrompt
from serving.sync_driver import Driver
from study.common.article import create_app, of_driver
from study.common.engine import ScriptedEngine, instant_engine
from tests.support.asgi_client import Client, events_of, until
from tests.support.serving import wait_until


def submit(engine: ScriptedEngine, sink: Sink, prompt: str, max_tokens: int) -> SequenceId:
    request = GenerationRequest(TextPrompt(prompt), SamplingParams(max_tokens=max_tokens))
    engine.submit(engine.encode([request]), sink)
    return request.sequence_id


def test_a_pace_waits_its_prefill_out_and_ends_each_request_once() -> None:
    engine = instant_engine()
    events: list[Event] = []

    def sink(batch: object) -> None:
        assert isinstance(batch, list)
        events.extend(event for _, event in batch)

    submit(engine, sink, "prefill=2 size=3", 2)
    assert [engine.step() for _ in range(4)] == [True, True, True, False]
    first, second, end = events
    assert isinstance(first, Token)
    assert isinstance(second, Token)
    assert (first.text, second.token_id) == ("xxx", 1)
    assert isinstance(end, Finished)
    assert end.finish_reason == "length"
    events.clear()
    sequence_id = submit(engine, sink, "prefill=9", 2)
    engine.step()
    assert engine.counters().running == 1
    engine.abort(sequence_id)
    engine.abort(sequence_id)
    assert not engine.step()
    assert [event.finish_reason for event in events if isinstance(event, Finished)] == ["abort"]
    assert engine.counters().running == 0


@pytest.mark.parametrize(
    ("engine", "prompts", "slept"),
    [
        (ScriptedEngine(), ["pace=10", "pace=30", "hello"], 0.03),
        (ScriptedEngine(seconds_per_step=0.05), ["pace=10"], 0.05),
        (ScriptedEngine(), ["pace=0", "hello"], 0),
    ],
    ids=["the slowest", "the engine's own", "none"],
)
def test_a_step_lasts_as_long_as_the_slowest_in_it_asks_for(
    engine: ScriptedEngine, prompts: list[str], slept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    monkeypatch.setattr("time.sleep", naps.append)
    for prompt in prompts:
        submit(engine, lambda events: None, prompt, 9)
    engine.step()
    assert naps == ([slept] if slept else [])


@pytest.fixture
def driver() -> Driver:
    """The driver of an article's server, with its engine ready."""
    driver = Driver(Config(), lambda config: instant_engine())
    driver.start()
    wait_until(lambda: driver.status == "ok")
    return driver


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """Keep Python from finding garbage in cycles, as it may not for minutes on an idle server."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.anyio
async def test_the_articles_server_is_made_to_end(driver: Driver) -> None:
    client = Client(create_app(*of_driver(driver)))
    streamed = await client.post(prompt="pace=0", max_tokens=5, stream=True)
    events = events_of(streamed.body)
    assert [event.get("token_id") for event in events] == [0, 1, 2, 3, 4, None]
    whole = await client.post(prompt="pace=0", max_tokens=5)
    assert whole.json()["token_ids"] == [0, 1, 2, 3, 4]
    assert (await client.request("GET", "/health")).json()["generated_tokens"] == 10


@pytest.mark.anyio
@pytest.mark.usefixtures("no_garbage_collection")
async def test_the_articles_server_ends_a_request_whose_client_has_left(driver: Driver) -> None:
    exchange = Client(create_app(*of_driver(driver))).open_generate("pace=5", max_tokens=1000)
    await exchange.next_message()
    await exchange.next_event()
    exchange.disconnect()
    await exchange.end()
    await until(lambda: driver.counters().running == 0)
