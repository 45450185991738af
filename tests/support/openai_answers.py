"""Asks the OpenAI endpoints without a door, and joins their streams as a client does."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import strategies as st

import contract
from backends.kept_in_memory import KeptInMemory
from interface.engine import Lexicon
from interface.events import Event, Finished, Part, Token
from interface.kept import Kept
from tests.support.asgi_client import event_of, events_of

MODELS = ("a-model", "another")
KEPT = KeptInMemory()
ACCEPTED = contract.Accepted("an-id", (3, 3, 3, 3))
FINISHED = Finished("stop", 3, 2, prefill_ms=1.0, decode_ms=1.0, total_ms=2.0)
MESSAGES = [{"role": "user", "content": "hi"}]


def parse(path: str, kept: Kept = KEPT, /, **body: Any) -> Any:
    """The call that an endpoint parses a body into."""
    endpoint = contract.endpoints_at(path)["POST"]
    return endpoint.parse(contract.Incoming(json.dumps(body).encode(), models=MODELS, kept=kept))


def reply_to(method: str, path: str, query: bytes = b"", body: Any = None, kept: Kept = KEPT) -> dict[str, Any]:
    """The answer to a question, which must not be a refusal."""
    endpoint = contract.endpoints_at(path)[method]
    asked = b"" if body is None else json.dumps(body).encode()
    question = contract.parse(endpoint, contract.Incoming(asked, path, query, kept=kept))
    assert isinstance(question, contract.Question)
    answer = question.ask(cast(Lexicon, None))
    assert answer.status == 200
    content: dict[str, Any] = json.loads(answer.body)
    return content


def why_not(method: str, path: str, query: bytes = b"", body: Any = None) -> tuple[int, str | None]:
    """The status, and the name of the wrong parameter, of the refusal that a question leads to."""
    with pytest.raises(contract.Refusal) as caught:
        reply_to(method, path, query, body)
    return caught.value.status, caught.value.param


def refused(path: str, expected_status: int = 400, /, **body: Any) -> dict[str, Any]:
    """The error that a body leads to; it must have this status."""
    with pytest.raises(contract.Refusal) as caught:
        parse(path, **body)
    answer = contract.dialect(path).refusal(caught.value)
    assert answer.status == expected_status
    error: dict[str, Any] = json.loads(answer.body)["error"]
    return error


def streamed(call: Any, events: Iterable[Event]) -> bytes:
    """The frames that a call's writer makes of events."""
    writer = call.writer(ACCEPTED)
    return b"".join([writer.start(), *map(writer.event, events), writer.end()])


def chunks(call: Any, events: Iterable[Event]) -> list[dict[str, Any]]:
    return events_of(streamed(call, events))


def whole(call: Any, events: Sequence[Event]) -> dict[str, Any]:
    answer = call.answer(ACCEPTED, events)
    assert answer.status == 200
    content: dict[str, Any] = json.loads(answer.body)
    return content


def tokens(texts: Iterable[str], index: int = 0) -> list[Event]:
    """Tokens with these texts, and the end."""
    made = [Token(text, number, 1.0, number == 0, index) for number, text in enumerate(texts)]
    return [*made, replace(FINISHED, index=index, completion_tokens=len(made))]


def parsed_tokens(parts: Iterable[tuple[Part, ...]], index: int = 0) -> list[Event]:
    """Tokens with these parts, and the end."""
    made = [Token("", number, 1.0, number == 0, index, parts=token_parts) for number, token_parts in enumerate(parts)]
    return [*made, replace(FINISHED, index=index, completion_tokens=len(made))]


def joined_message(stream: Iterable[dict[str, Any]], index: int) -> dict[str, Any]:
    """The message of one choice, as a client joins it: strings are concatenated, and tool calls by their index."""
    message: dict[str, Any] = {}
    calls: dict[int, dict[str, Any]] = {}
    for choice in (choice for chunk in stream for choice in chunk["choices"] if choice["index"] == index):
        for name, value in choice["delta"].items():
            if name != "tool_calls":
                message[name] = message.get(name, "") + value
                continue
            for call in value:
                known = calls.setdefault(call["index"], {"id": "", "type": "function", "name": "", "arguments": ""})
                known["id"] += call.get("id", "")
                known["name"] += call["function"].get("name", "")
                known["arguments"] += call["function"].get("arguments", "")
    return message | {"tool_calls": [calls[number] for number in sorted(calls)]}


@st.composite
def interleaved(draw: st.DrawFn, choices: Sequence[Sequence[Event]]) -> list[Event]:
    """The events of several sequences, mixed, each sequence's own in their order."""
    order = draw(st.permutations([index for index, events in enumerate(choices) for _ in events]))
    iterators = [iter(events) for events in choices]
    return [next(iterators[index]) for index in order]


def named_events(body: bytes) -> list[dict[str, Any]]:
    """The events of a stream in which each has its type as its name, too."""
    *blocks, after = body.split(b"\n\n")
    assert after == b""
    events = []
    for block in (one for one in blocks if not one.startswith(b":")):
        name, data = block.split(b"\n")
        event: dict[str, Any] = event_of(data + b"\n\n")
        assert name == f"event: {event['type']}".encode()
        events.append(event)
    return events
