"""Answers and events of the OpenAI endpoints are as /openapi.json and openai-python's types describe them.

The SDK's models take any extra field, so the extra fields are compared with those that are meant.
"""

import copy
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

import contract
from study.common.engine import ScriptedEngine
from tests.support import asgi_client
from tests.support.asgi_client import JSON, events_of, until
from tests.support.openai_answers import named_events
from tests.support.openapi import check, described, event_schema
from tests.support.serving import Door, by_hand

pytestmark = pytest.mark.anyio

KNOWN_EXTRAS = {"reasoning_content", "stop_reason", "token_ids", "prompt_token_ids", "max_model_len"}
"""Fields of vLLM and llama.cpp."""
OF_RESPONSES = {"frequency_penalty", "presence_penalty", "store"}
"""Fields of a response in the specification of Open Responses, which the types of the official client lack."""
OF_ANTHROPIC = {"type", "display_name", "created_at", "lifecycle", "max_input_tokens", "max_tokens"}
"""Fields of a model, at the path that both APIs share."""
ADD = {"name": "add", "parameters": {"type": "object"}}
CHAT_TOOL = {"type": "function", "function": ADD}
FLAT_TOOL = {"type": "function", **ADD}


def user(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "hello"}),
    ("/v1/completions", {"prompt": ["emoji", "newlines"], "n": 2, "logprobs": 2, "return_token_ids": True}),
    ("/v1/completions", {"prompt": "count 30", "echo": True, "logprobs": 0, "max_tokens": 0}),
    ("/v1/completions", {"prompt": "explode"}),
    ("/v1/chat/completions", {"messages": user("hello"), "n": 3}),
    ("/v1/chat/completions", {"messages": user("emoji"), "logprobs": True, "top_logprobs": 3}),
    ("/v1/chat/completions", {"messages": user("think hard"), "max_tokens": 2, "return_token_ids": True}),
    ("/v1/chat/completions", {"messages": user('call add {"a": 1}'), "tools": [CHAT_TOOL]}),
    ("/v1/chat/completions", {"messages": user('call add {"a": 1}'), "functions": [ADD]}),
    ("/v1/chat/completions", {"messages": user("explode")}),
    ("/v1/responses", {"input": "hello", "instructions": "Be brief.", "metadata": {"a": "b"}, "temperature": 0}),
    ("/v1/responses", {"input": "think hard", "max_output_tokens": 2}),
    ("/v1/responses", {"input": "emoji", "top_logprobs": 2, "text": {"format": {"type": "json_object"}}}),
    ("/v1/responses", {"input": 'call add {"a": 1}', "tools": [FLAT_TOOL], "tool_choice": FLAT_TOOL}),
    ("/v1/responses", {"input": "hello", "background": True}),
    ("/v1/responses", {"input": "explode"}),
]
SDK_WHOLE: dict[str, Any] = {
    "/v1/completions": Completion,
    "/v1/chat/completions": ChatCompletion,
    "/v1/responses": Response,
}
SDK_EVENT: dict[str, Any] = {
    "/v1/completions": Completion,
    "/v1/chat/completions": ChatCompletionChunk,
    "/v1/responses": ResponseStreamEvent,
}


def extras_in(value: Any) -> Iterator[str]:
    """The names of all the fields that the SDK's models do not have."""
    if isinstance(value, BaseModel):
        yield from value.model_extra or ()
        value = [getattr(value, name) for name in type(value).model_fields]
    if isinstance(value, list):
        for item in value:
            yield from extras_in(item)


def without_forgotten_nulls(completion: dict[str, Any]) -> dict[str, Any]:
    """The SDK's model forgets two nulls that OpenAI sends: a chunk's finish_reason, the first token's logprob."""
    completion = copy.deepcopy(completion)
    for choice in completion["choices"]:
        choice["finish_reason"] = choice["finish_reason"] or "stop"
        for name in ("token_logprobs", "top_logprobs"):
            if choice["logprobs"] is not None and choice["logprobs"][name][:1] == [None]:
                del choice["logprobs"][name][0]
    return completion


@cache
def adapter_of(type: Any) -> TypeAdapter[Any]:
    """What checks a type of the SDK; to make it takes long."""
    return TypeAdapter(type)


def check_with_the_sdk(content: Any, type: Any) -> None:
    """Validate as strictly as the SDK's model can; its client itself does not validate at all."""
    if type is Completion:
        content = without_forgotten_nulls(content)
    made = adapter_of(type).validate_json(json.dumps(content), strict=True)
    assert set(extras_in(made)) <= KNOWN_EXTRAS | OF_RESPONSES


def stream_events(path: str, body: bytes) -> list[dict[str, Any]]:
    return named_events(body) if path == "/v1/responses" else events_of(body)


async def post(service: Any, path: str, body: Any) -> asgi_client.Response:
    response: asgi_client.Response = await service.client.request("POST", path, json.dumps(body).encode(), JSON)
    return response


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_a_whole_answer_conforms(door: Door, path: str, body: dict[str, Any]) -> None:
    async with by_hand(door) as service:
        response = await post(service, path, body)
    check(response.json(), described(path, "post", response)["application/json"]["schema"])
    if response.status == 200:
        check_with_the_sdk(response.json(), SDK_WHOLE[path])
    else:
        assert response.status == 500
        assert "explode" in str(body)


@pytest.mark.parametrize("extra", [{}, {"stream_options": {"include_usage": True}}], ids=["", "usage"])
@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_every_event_of_a_stream_conforms(
    door: Door, path: str, body: dict[str, Any], extra: dict[str, Any]
) -> None:
    async with by_hand(door) as service:
        response = await post(service, path, body | extra | {"stream": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    schema = event_schema(described(path, "post", response)["text/event-stream"])
    for event in stream_events(path, response.body):
        check(event, schema)
        if "error" not in event:
            check_with_the_sdk(event, SDK_EVENT[path])


async def test_a_stream_that_is_read_again_and_the_reply_to_a_cancel_conform(door: Door) -> None:
    async with by_hand(door) as service:
        path = "/v1/responses"
        made = await post(service, path, {"input": "hello", "background": True, "stream": True})
        first = named_events(made.body)[0]
        by_id = f"{path}/{first['response']['id']}"
        again = await service.client.request("GET", f"{by_id}?stream=true")
        cancelled = await service.client.request("POST", f"{by_id}/cancel")
    assert again.body == made.body
    schema = event_schema(described(f"{path}/{{name}}", "get", again)["text/event-stream"])
    for event in named_events(again.body):
        check(event, schema)
    check(cancelled.json(), described(f"{path}/{{name}}/cancel", "post", cancelled)["application/json"]["schema"])
    check_with_the_sdk(cancelled.json(), Response)


async def test_models_and_counts_conform(door: Door) -> None:
    async with by_hand(door) as service:
        models = await service.client.request("GET", "/v1/models")
        model = await service.client.request("GET", "/v1/models/bundled_model")
        counted = await post(service, "/v1/responses/input_tokens", {"input": "one two three"})
    check(models.json(), described("/v1/models", "get", models)["application/json"]["schema"])
    check(model.json(), described("/v1/models/{name}", "get", model)["application/json"]["schema"])
    check_with_the_sdk({name: value for name, value in model.json().items() if name not in OF_ANTHROPIC}, Model)
    check(counted.json(), described("/v1/responses/input_tokens", "post", counted)["application/json"]["schema"])
    assert counted.json() == {"object": "response.input_tokens", "input_tokens": 3}


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/responses/input_tokens"]
)
async def test_every_refusal_conforms(door: Door, path: str) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/v1/completions": {"prompt": "x"},
        "/v1/chat/completions": {"messages": user("x")},
    }
    body = bodies.get(path, {"input": "x"})
    async with by_hand(door, engine=ScriptedEngine(slots=1, max_waiting=0)) as service:
        answers = [
            await post(service, path, {}),
            await post(service, path, body | {"model": "other"}),
            await service.client.request("POST", path, b"{}"),
            await service.client.request("POST", path, b" " * (contract.MAX_BODY_BYTES + 1), JSON),
        ]
        if not path.endswith("input_tokens"):
            service.engine.hold()
            async with service.client.open_generate("hello") as running:
                await until(lambda: service.engine.counters().running == 1)
                answers.append(await post(service, path, body))
                service.engine.release()
                await running.end()
        await service.client.post(prompt="explode")
        await until(lambda: service.driver.status != "ok")
        answers.append(await post(service, path, body))
    expected = [400, 404, 415, 413, 500] if path.endswith("input_tokens") else [400, 404, 415, 413, 503, 500]
    assert [answer.status for answer in answers] == expected
    for answer in answers:
        check(answer.json(), described(path, "post", answer)["application/json"]["schema"])


def test_the_checks_would_notice() -> None:
    with pytest.raises(ValueError, match="created"):
        check_with_the_sdk({"id": "x", "object": "text_completion", "model": "m", "choices": []}, Completion)
    surprise = {"id": "x", "object": "model", "created": 1, "owned_by": "x", "surprise": 1}
    with pytest.raises(AssertionError):
        check_with_the_sdk(surprise, Model)
