"""openai-python and anthropic-python on real models, through both doors: each API gives the same answer."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import torch
from pydantic import BaseModel, ConfigDict
from transformers import AutoModelForCausalLM

from backends.stepped import SteppedService
from config import BUNDLED_MODEL, Config
from engine import Engine
from study.clients.lm_eval import loglikelihoods
from study.common.http_servers import serving_in_a_thread
from tests.support.serving import Door, assemble, wait_until
from tests.support.smollm2 import smollm2_file

pytestmark = pytest.mark.timeout(240)

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
GREEDY: Any = {"model": "a-model", "temperature": 0}
GET_WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Capital(BaseModel):
    model_config = ConfigDict(extra="forbid")

    capital: str


def served(door: Door, engine: Engine) -> Iterator[str]:
    """The address of a door with a real engine behind it."""
    service = assemble(door, config=Config(model_name="a-model"), load=lambda config: SteppedService(engine))
    with serving_in_a_thread(service.app) as port:
        wait_until(lambda: service.driver.status == "ok", "the engine's start")
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def smollm2() -> Engine:
    config = Config(model=str(smollm2_file()), device="cpu", dtype="float32", context=512, max_streams=4, compile=True)
    return Engine.load(config)


@pytest.fixture(scope="module")
def bundled() -> Engine:
    return Engine.load(Config(device="cpu", dtype="float32", max_streams=4))


@pytest.fixture
def address(door: Door, smollm2: Engine) -> Iterator[str]:
    yield from served(door, smollm2)


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_each_api_says_paris_whole_and_as_a_stream(client: openai.OpenAI, address: str) -> None:
    chat = client.chat.completions.create(messages=QUESTION, **GREEDY)
    with client.chat.completions.stream(messages=QUESTION, **GREEDY) as chunks:
        assert chunks.get_final_completion().choices[0].message.content == ANSWER
    response = client.responses.create(input=QUESTION, **GREEDY)
    with client.responses.stream(input=QUESTION, **GREEDY) as events:
        assert [event.type for event in events][-1] == "response.completed"
        assert events.get_final_response().output_text == ANSWER
    with anthropic.Anthropic(base_url=address, api_key="any", max_retries=0) as other:
        body: Any = {"model": "a-model", "max_tokens": 30, "messages": QUESTION, "extra_body": {"temperature": 0}}
        message: Any = other.messages.create(**body)
        with other.messages.stream(**body) as stream:
            assert "".join(stream.text_stream) == ANSWER
    assert chat.choices[0].message.content == response.output_text == message.content[0].text == ANSWER
    assert chat.choices[0].finish_reason == "stop"


def test_an_answer_is_parsed_into_a_model(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(messages=QUESTION, response_format=Capital, max_tokens=100, **GREEDY)
    parsed = answer.choices[0].message.parsed
    assert parsed is not None
    assert "paris" in parsed.capital.lower()


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_forced_tool_is_called_whole_and_as_a_stream(client: openai.OpenAI, choice: Any) -> None:
    body: Any = {
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [GET_WEATHER],
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "max_tokens": 100,
        **GREEDY,
    }
    whole = client.chat.completions.create(**body)
    with client.chat.completions.stream(**body) as stream:
        streamed = stream.get_final_completion()
    for answer in (whole, streamed):
        assert answer.choices[0].finish_reason == "tool_calls"
        calls: Any = answer.choices[0].message.tool_calls
        (call,) = calls
        assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})


def test_tools_that_the_template_does_not_know_may_be_offered(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(messages=QUESTION, tools=[GET_WEATHER], **GREEDY)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].message.tool_calls is None


def test_a_schema_that_cannot_be_enforced_is_refused(client: openai.OpenAI) -> None:
    schema: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {"type": "object"}}}}
    with pytest.raises(openai.BadRequestError, match="not"):
        client.chat.completions.create(messages=QUESTION, response_format=schema, **GREEDY)


def test_the_second_of_two_equal_questions_finds_the_first_in_the_cache(client: openai.OpenAI) -> None:
    client.chat.completions.create(messages=QUESTION, max_tokens=1, **GREEDY)
    usage = client.chat.completions.create(messages=QUESTION, max_tokens=1, **GREEDY).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1


def test_lm_evals_log_probabilities_are_those_of_transformers(door: Door, bundled: Engine) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(Path(BUNDLED_MODEL), dtype=torch.float32)
    pairs = [([40, 300, 500], [7, 900]), ([1000, 20], [30, 40, 50, 2000])]
    for address in served(door, bundled):
        answers = loglikelihoods(address, pairs)
    for (context, continuation), (total, is_greedy) in zip(pairs, answers, strict=True):
        with torch.inference_mode():
            scores = model(torch.tensor([context + continuation])).logits[0].log_softmax(-1)[len(context) - 1 : -1]
        expected = scores.gather(1, torch.tensor(continuation)[:, None]).sum().item()
        assert total == pytest.approx(expected, abs=1e-3)
        assert is_greedy == (scores.argmax(-1).tolist() == continuation)


def test_lm_eval_knows_the_models_own_continuation(door: Door, bundled: Engine) -> None:
    prompt = [40, 300, 500]
    model: Any = AutoModelForCausalLM.from_pretrained(Path(BUNDLED_MODEL), dtype=torch.float32)
    greedy = model.generate(torch.tensor([prompt]), max_new_tokens=5, do_sample=False)
    for address in served(door, bundled):
        ((_, is_greedy),) = loglikelihoods(address, [(prompt, greedy[0, 3:].tolist())])
    assert is_greedy
