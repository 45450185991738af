"""Answers of the Messages API without a door, whole and streamed, checked against the SDK's own types."""

import json
from typing import Any

from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

import contract
from interface.events import Event, Part, Token
from tests.support.anthropic_requests import parsed

SDK_EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
"""Made once: that takes a tenth of a second."""
ACCEPTED = contract.Accepted("an-id", [9])


def tokens_of(*parts: Part) -> list[Event]:
    return [Token("", number, 1.0, number == 0, parts=(part,)) for number, part in enumerate(parts)]


def streamed(events: list[Event], **fields: Any) -> list[dict[str, Any]]:
    """The events that a stream sends, checked against the SDK's own types and their names."""
    writer = parsed(stream=True, **fields).writer(ACCEPTED)
    wire = writer.start() + b"".join(map(writer.event, events)) + writer.end()
    found = []
    for frame in wire.decode().split("\n\n")[:-1]:
        name, data = frame.split("\n")
        content = json.loads(data.removeprefix("data: "))
        assert name == f"event: {content['type']}"
        if content["type"] not in ("ping", "error"):
            SDK_EVENT.validate_python(content)
        found.append(content)
    return found


def whole(events: list[Event], **fields: Any) -> dict[str, Any]:
    answer = parsed(**fields).answer(ACCEPTED, events)
    assert answer.status == 200
    content: dict[str, Any] = json.loads(answer.body)
    Message.model_validate(content)
    return content


def put_together(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client has after a stream."""
    message: dict[str, Any] = events[0]["message"]
    arguments: dict[int, str] = {}
    for event in events[1:]:
        match event["type"]:
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
            case "content_block_delta":
                block, delta = message["content"][event["index"]], event["delta"]
                if delta["type"] == "input_json_delta":
                    arguments[event["index"]] = arguments.get(event["index"], "") + delta["partial_json"]
                else:
                    kind = delta["type"].removesuffix("_delta")
                    block[kind] += delta[kind]
            case "message_delta":
                message |= event["delta"] | {"usage": event["usage"]}
    for index, text in arguments.items():
        message["content"][index]["input"] = json.loads(text)
    return message


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    blocks = [{name: value for name, value in block.items() if name != "id"} for block in message["content"]]
    return message | {"id": "", "content": blocks}
