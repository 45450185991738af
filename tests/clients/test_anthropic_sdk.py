"""Anthropic's own Python client against a real uvicorn, through both doors, on the scripted engine."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from config import Config
from study.common.engine import HELLO
from tests.support.serving import Door, Service, on_a_socket, wait_until

MODEL = "bundled_model"


@pytest.fixture
def client(service: Service) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=f"http://127.0.0.1:{service.port}", api_key="any", max_retries=0) as client:
        yield client


def test_the_client_reads_a_whole_message(client: anthropic.Anthropic) -> None:
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


def test_an_answer_that_fills_the_context_says_so(client: anthropic.Anthropic) -> None:
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "size=1"}]}
    assert client.messages.create(max_tokens=5000, **body).stop_reason == "model_context_window_exceeded"
    assert client.messages.create(max_tokens=50, **body).stop_reason == "max_tokens"


def test_tokens_are_counted(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "one two three"}])
    assert counted.input_tokens == 3


def test_an_unknown_model_is_not_found(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match=MODEL):
        client.messages.create(model="other", max_tokens=5, messages=[{"role": "user", "content": "hello"}])


def test_the_models_are_listed_and_found(client: anthropic.Anthropic) -> None:
    page = client.models.list(limit=1)
    (model,) = page
    assert (page.has_more, page.first_id, page.last_id) == (False, MODEL, MODEL)
    assert model == client.models.retrieve(MODEL)
    assert (model.id, model.type, model.display_name, model.lifecycle) == (MODEL, "model", MODEL, "active")
    assert model.created_at.tzinfo is not None
    with pytest.raises(anthropic.NotFoundError, match="other") as caught:
        client.models.retrieve("other")
    assert caught.value.type == "not_found_error"


def test_all_pages_of_the_models_are_asked_for(door: Door) -> None:
    with (
        on_a_socket(door, config=Config(model_name="a,b,c")) as service,
        anthropic.Anthropic(base_url=f"http://127.0.0.1:{service.port}", api_key="any", max_retries=0) as client,
    ):
        assert [model.id for model in client.models.list(limit=1)] == ["a", "b", "c"]
        assert [model.id for model in client.models.list(limit=1, before_id="c")] == ["b", "a"]


def test_the_client_knows_the_id_of_its_request(client: anthropic.Anthropic, service: Service) -> None:
    body: dict[str, Any] = {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}
    named = {"x-request-id": "mine-1"}
    assert client.messages.create(**body, extra_headers=named)._request_id == "mine-1"
    with client.messages.stream(**body, extra_headers=named) as stream:
        assert stream.request_id == "mine-1"
        stream.until_done()
    exploding = body | {"messages": [{"role": "user", "content": "explode"}]}
    for wrong in (body | {"model": "other"}, exploding):
        with pytest.raises(anthropic.APIStatusError) as caught:
            client.messages.create(**wrong, extra_headers=named)
        assert caught.value.request_id == "mine-1"
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["request_id"] == "mine-1"
    with (
        pytest.raises(anthropic.APIStatusError) as caught,
        client.messages.stream(**exploding, extra_headers=named) as stream,
    ):
        stream.until_done()
    assert caught.value.request_id == "mine-1"
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["request_id"] == "mine-1"


def test_the_tool_runner_goes_on_without_a_thread(client: anthropic.Anthropic) -> None:
    """It asks the server to keep the conversation, and would send nothing but the news from then on."""

    @anthropic.beta_tool
    def add(x: int, y: int) -> str:
        """Adds."""
        return str(x + y)

    body: dict[str, Any] = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]}
    with pytest.raises(anthropic.BadRequestError, match="whole"):
        client.beta.messages.create(**body, thread={"type": "create"})
    (message,) = client.beta.messages.tool_runner(**body, tools=[add])
    assert message.content[0].type == "text"
    assert message.content[0].text == "".join(HELLO)


def test_a_wrong_value_is_a_bad_request(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        client.messages.create(model=MODEL, max_tokens=-1, messages=[{"role": "user", "content": "hello"}])


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
