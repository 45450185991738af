"""Conversations in the form in which OpenAI's API sends them, for another server to render."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]


def messages_on_the_wire(messages: Sequence[Message]) -> list[Message]:
    """Messages as chat templates have them, with the arguments of calls as texts, and a content where no calls are."""
    return [_message(message) for message in messages]


def _message(message: Message) -> Message:
    if calls := message.get("tool_calls"):
        return {**message, "tool_calls": [_call(call) for call in calls]}
    return {"content": "", **message}


def _call(call: Mapping[str, Any]) -> Mapping[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}
