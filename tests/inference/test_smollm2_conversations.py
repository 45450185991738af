"""A real instruct model answers conversations, writes JSON and calls tools, although its template knows no tools."""

import json
from typing import Any

import pytest

from config import Config
from engine import Engine
from interface.events import Part
from interface.requests import ChatPrompt, GenerationRequest, Grammar, SamplingParams
from tests.support.answer_parts import calls_of
from tests.support.chat_tokenizers import tool
from tests.support.smollm2 import smollm2_file
from tests.support.tiny_models import Inbox, run_until_idle

pytestmark = pytest.mark.timeout(240)

CAPITAL = {"role": "user", "content": "What is the capital of France?"}
WEATHER = {"role": "user", "content": "What is the weather in Paris?"}
GET_WEATHER = tool("get_weather", city={"type": "string", "maxLength": 30})
CITY = {
    "type": "object",
    "properties": {"capital": {"type": "string", "maxLength": 20}},
    "required": ["capital"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine() -> Engine:
    config = Config(model=str(smollm2_file()), device="cpu", dtype="float32", context=512, max_streams=8, compile=True)
    return Engine.load(config)


def test_smollm2_answers_in_text_in_json_and_with_tool_calls(engine: Engine) -> None:
    params = SamplingParams(max_tokens=60, temperature=0)
    begun = [CAPITAL, {"role": "assistant", "content": "The capital of France is"}]
    in_text = GenerationRequest(ChatPrompt([CAPITAL]), params)
    in_json = GenerationRequest(ChatPrompt([CAPITAL]), params, Grammar("json_schema", json.dumps(CITY)))
    continued = GenerationRequest(
        ChatPrompt(begun, add_generation_prompt=False, continue_final_message=True), params, parse_response=True
    )
    forced = ChatPrompt([WEATHER], [GET_WEATHER], tool_choice="required", parallel_tool_calls=False)
    with_tools = GenerationRequest(forced, params, parse_response=True)
    inbox = Inbox()
    requests = [in_text, in_json, continued, with_tools]
    engine.submit(engine.encode(requests), inbox)
    run_until_idle(engine)
    texts = [inbox.text(request.sequence_id) for request in requests]
    assert texts[0] == "The capital of France is Paris."
    assert json.loads(texts[1]) == {"capital": "Paris"}
    assert texts[2] == " Paris."
    parts: list[Part] = [part for token in inbox.tokens(with_tools.sequence_id) for part in token.parts or ()]
    ((name, arguments),) = calls_of(parts)
    assert (name, json.loads(arguments)) == ("get_weather", {"city": "Paris"})
    assert {inbox.finish_reason(request.sequence_id) for request in requests} == {"stop"}


def test_smollm2_answers_with_a_tools_result(engine: Engine) -> None:
    call = {"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    conversation: list[dict[str, Any]] = [
        WEATHER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "It is raining, 12 degrees."},
    ]
    answer = engine.generate(ChatPrompt(conversation), max_tokens=20, temperature=0)
    assert "12 degrees" in answer["text"]


def test_smollm2_answers_in_text_where_it_may_call_a_tool(engine: Engine) -> None:
    answer = engine.generate(ChatPrompt([CAPITAL], [GET_WEATHER]), max_tokens=20, temperature=0)
    assert answer["text"] == "The capital of France is Paris."
