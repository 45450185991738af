"""OpenAI's own Python client and responses that are made in the background, through both doors."""

from collections.abc import Iterator
from itertools import islice

import openai
import pytest

from study.common.engine import HELLO
from tests.support.serving import Service, wait_until

MODEL = "bundled_model"
TEXT = "".join(HELLO)


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{service.port}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_a_response_in_the_background_is_there_when_it_is_polled(client: openai.OpenAI) -> None:
    response = client.responses.create(model=MODEL, input="hello", background=True)
    while response.status in ("queued", "in_progress"):
        response = client.responses.retrieve(response.id)
    assert (response.output_text, response.background) == (TEXT, True)
    assert client.responses.cancel(response.id).output_text == TEXT


def test_a_response_in_the_background_is_answered_before_its_first_token(
    client: openai.OpenAI, service: Service
) -> None:
    service.engine.hold()
    response = client.responses.create(model=MODEL, input="hello", background=True)
    assert (response.status, response.output) == ("in_progress", [])
    assert client.responses.retrieve(response.id) == response
    service.engine.release()
    wait_until(lambda: client.responses.retrieve(response.id).status == "completed", "the end")
    assert client.responses.retrieve(response.id).output_text == TEXT


def test_a_stream_in_the_background_is_taken_up_again_where_it_was_left(
    client: openai.OpenAI, service: Service
) -> None:
    service.engine.hold()
    service.engine.release(2)
    with client.responses.create(model=MODEL, input="count 5", background=True, stream=True) as stream:
        events = list(islice(stream, 6))
    assert events[0].type == "response.created"
    id = events[0].response.id
    wait_until(lambda: not service.driver.exchanges.open, "the client's leaving")
    assert client.responses.retrieve(id).status == "in_progress"
    with client.responses.retrieve(id, stream=True, starting_after=events[-1].sequence_number) as stream:
        service.engine.release()
        events += stream
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "0 1 2 3 4 "
    with client.responses.retrieve(id, stream=True) as stream:
        assert list(stream) == events
    assert service.engine.aborted == []


@pytest.mark.parametrize("ends", ["cancel", "delete"])
def test_a_response_in_the_background_that_is_not_wanted_any_more_ends(
    client: openai.OpenAI, service: Service, ends: str
) -> None:
    stream = client.responses.create(model=MODEL, input="drip 3000", background=True, stream=True)
    first = next(iter(stream))
    assert first.type == "response.created"
    getattr(client.responses, ends)(first.response.id)
    assert not any(event.type == "response.completed" for event in stream)
    wait_until(lambda: len(service.engine.aborted) == 1, "the abort")
    assert service.engine.counters().running == 0
    if ends == "cancel":
        assert client.responses.retrieve(first.response.id).status == "cancelled"
