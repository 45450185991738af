"""Anthropic's own Python client against a real uvicorn, through both doors, on the scripted engine."""

from collections.abc import Iterator

import anthropic
import pytest

from study.common.engine import HELLO
from tests.support.serving import Door, Service, on_a_socket, wait_until

MODEL = "bundled_model"


@pytest.fixture
def service(door: Door) -> Iterator[Service]:
    with on_a_socket(door) as service:
        yield service


@pytest.fixture
def client(service: Service) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=f"http://127.0.0.1:{service.port}", api_key="any", max_retries=0)


def test_a_whole_message(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model=MODEL, max_tokens=50, messages=[{"role": "user", "content": "hello"}])
    (block,) = message.content
    assert block.type == "text"
    assert block.text == "".join(HELLO)
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == len(HELLO)


def test_a_streamed_message_comes_token_by_token_and_is_the_same(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model=MODEL, max_tokens=50, messages=[{"role": "user", "content": "hello"}]) as stream:
        assert list(stream.text_stream) == HELLO
        message = stream.get_final_message()
    assert message.content[0].type == "text"
    assert message.content[0].text == "".join(HELLO)
    assert message.stop_reason == "end_turn"


def test_max_tokens_beyond_the_context_are_clamped(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model=MODEL, max_tokens=8000, messages=[{"role": "user", "content": "hello"}])
    assert message.stop_reason == "end_turn"


def test_tokens_are_counted(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "one two three"}])
    assert counted.input_tokens == 3


def test_an_unknown_model_is_not_found(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match=MODEL):
        client.messages.create(model="other", max_tokens=5, messages=[{"role": "user", "content": "hello"}])


def test_a_wrong_value_is_a_bad_request(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        client.messages.create(model=MODEL, max_tokens=0, messages=[{"role": "user", "content": "hello"}])


def test_a_failure_on_the_way_is_raised(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.APIStatusError, match="the script says so"):
        client.messages.create(model=MODEL, max_tokens=5, messages=[{"role": "user", "content": "explode"}])


def test_a_failure_in_a_stream_is_raised_after_what_came_before(client: anthropic.Anthropic) -> None:
    seen: list[str] = []
    with (
        pytest.raises(anthropic.APIStatusError, match="the script says so"),
        client.messages.stream(model=MODEL, max_tokens=5, messages=[{"role": "user", "content": "explode"}]) as stream,
    ):
        seen.extend(stream.text_stream)
    assert seen == HELLO[:1]


def test_leaving_a_stream_ends_its_sequence(service: Service, client: anthropic.Anthropic) -> None:
    with client.messages.stream(
        model=MODEL, max_tokens=3000, messages=[{"role": "user", "content": "drip 3000"}]
    ) as stream:
        next(iter(stream.text_stream))
    wait_until(lambda: len(service.engine.aborted) == 1, "the abort")
