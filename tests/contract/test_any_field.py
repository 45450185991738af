"""Whatever a field holds, a request is answered in the SDK's own types, or refused by the name of that field.

The fields are those of the endpoints, and those that the SDKs send.
"""

import json
from itertools import product
from typing import Any

import pytest
from anthropic.types.beta import BetaMessage
from anthropic.types.beta.message_count_tokens_params import MessageCountTokensParams
from anthropic.types.beta.message_create_params import MessageCreateParamsBase
from openai.types.beta.response_create_params import ResponseCreateParamsBase
from openai.types.chat import ChatCompletion
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsBase as CompletionParams
from openai.types.responses import Response
from openai.types.responses.input_token_count_params import InputTokenCountParams
from pydantic import TypeAdapter

import contract
from backends.kept_in_memory import KeptInMemory
from contract.openai.background import BackgroundCall
from tests.support.openai_answers import MESSAGES, tokens

ODD: list[Any] = ["", "x", [], [""], [None], [{}], {}, {"type": "x"}, {"type": 5}, {"enabled": True}]
ODD += [0, -1, 2.5, 10**30, True, False]
ANYTHING = object
BODIES: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "/v1/completions": (CompletionParams, {"prompt": "hi"}, ANYTHING),
    "/v1/chat/completions": (ChatParams, {"messages": MESSAGES}, ChatCompletion),
    "/v1/responses": (ResponseCreateParamsBase, {"input": "hi"}, Response),
    "/v1/responses/input_tokens": (InputTokenCountParams, {"input": "hi"}, ANYTHING),
    "/v1/messages": (MessageCreateParamsBase, {"messages": MESSAGES, "max_tokens": 9}, BetaMessage),
    "/v1/messages/count_tokens": (MessageCountTokensParams, {"messages": MESSAGES}, ANYTHING),
}
NAMED_BY_ANOTHER = {"continue_final_message": "messages"}
"""Fields that are right by themselves, but not with the messages."""


def fields_of(path: str) -> list[str]:
    request: Any = contract.endpoints_at(path)["POST"].request
    own = {field.alias or name for name, field in request.model_fields.items()}
    return sorted(own | set(BODIES[path][0].__annotations__))


def answered(path: str, body: dict[str, Any]) -> bytes | contract.Refusal | None:
    """The whole answer to a body, if it is made at once, or why there is none."""
    incoming = contract.Incoming(json.dumps(body).encode(), models=("m",), kept=KeptInMemory())
    try:
        call = contract.endpoints_at(path)["POST"].parse(incoming)
    except contract.Refusal as refusal:
        return refusal
    if isinstance(call, contract.Question | BackgroundCall):
        return None
    events = [event for request in call.requests for event in tokens(["4"], request.index)]
    prompt_tokens = (3,) * len(call.requests)
    return call.answer(contract.Accepted("an-id", prompt_tokens), events).body


@pytest.mark.parametrize("path", BODIES)
def test_a_field_with_any_value_is_right_or_named(path: str) -> None:
    _, body, answer_type = BODIES[path]
    adapter = TypeAdapter[Any](answer_type)
    for field, value in product(fields_of(path), ODD):
        answer = answered(path, body | {field: value})
        if isinstance(answer, contract.Refusal):
            assert answer.status in (400, 404), (field, value)
            named = (answer.param or "").partition(".")[0]
            assert named in (field, NAMED_BY_ANOTHER.get(field)), (field, value, answer.message)
        elif answer is not None and answer_type is not ANYTHING:
            adapter.validate_json(answer)


def test_the_sdks_fields_are_tried() -> None:
    assert {"temperature", "safety_identifier", "multi_agent"} <= set(fields_of("/v1/responses"))
    assert {"top_k", "fallbacks", "speed"} <= set(fields_of("/v1/messages"))
    assert "prediction" in fields_of("/v1/chat/completions")
