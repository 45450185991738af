"""Parses bodies of the Messages API without a door."""

import json
from typing import Any

import pytest

import contract
from contract.anthropic.messages import parse_messages
from interface.requests import ChatPrompt

SERVED = ("a/model", "alias")
HELLO = {"max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}


def parsed(**fields: Any) -> Any:
    """The call that a body becomes: a greeting, with these fields."""
    return parse_messages(contract.Incoming(json.dumps(HELLO | fields).encode(), models=SERVED))


def prompt_of(**fields: Any) -> ChatPrompt:
    prompt = parsed(**fields).requests[0].prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt


def refused(**fields: Any) -> tuple[int, dict[str, Any]]:
    """The status and the error that a body leads to."""
    with pytest.raises(contract.Refusal) as caught:
        parsed(**fields)
    answer = contract.dialect("/v1/messages").refusal(caught.value)
    body = json.loads(answer.body)
    assert body["type"] == "error"
    return answer.status, body["error"]
