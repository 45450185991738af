"""A request with `compaction` is answered with a summary, which the next request has in place of the conversation."""

import json
from typing import Any

from anthropic.types.beta import BetaMessage, BetaRawMessageStreamEvent
from pydantic import TypeAdapter

import contract
from contract.summaries import INTRODUCTION, REQUEST, SUMMARY_TOKENS
from interface.events import Event, Finished, TextPart, Token
from tests.support.anthropic_requests import HELLO, parsed, prompt_of

SUMMARIZE = {"type": "summarize"}
ACCEPTED = contract.Accepted("an-id", [9])
SDK_EVENT: TypeAdapter[Any] = TypeAdapter(BetaRawMessageStreamEvent)


def summed_up(*texts: str) -> list[Event]:
    thought = Token("", 0, 1.0, True, parts=(TextPart("reasoning", "hm"),))
    tokens = [Token("", 1, 1.0, False, parts=(TextPart("content", text),)) for text in texts]
    return [thought, *tokens, Finished("length", 9, 4, prefill_ms=1, decode_ms=1, total_ms=2)]


def test_the_model_is_asked_for_a_summary() -> None:
    request = parsed(compaction=SUMMARIZE).requests[0]
    assert [message["content"] for message in request.prompt.messages] == [f"hello\n\n{REQUEST}"]
    assert (request.prompt.leave_room, request.params.max_tokens, request.default_temperature) == (SUMMARY_TOKENS, 5, 0)
    begun = [*HELLO["messages"], {"role": "assistant", "content": "Hi."}]  # type: ignore[misc]
    own = prompt_of(messages=begun, compaction=SUMMARIZE | {"instructions": "In a word."})
    assert [message["content"] for message in own.messages] == ["hello", "Hi.", "In a word."]
    assert own.add_generation_prompt
    assert prompt_of(compaction=SUMMARIZE | {"instructions": "  "}).messages[0]["content"].endswith(REQUEST)


def test_the_answer_is_one_block() -> None:
    message = json.loads(parsed(compaction=SUMMARIZE).answer(ACCEPTED, summed_up("So ", "far.")).body)
    BetaMessage.model_validate(message)
    assert message["content"] == [{"type": "compaction", "content": "So far."}]
    assert message["stop_reason"] == "compaction"
    nothing = json.loads(parsed(compaction=SUMMARIZE).answer(ACCEPTED, summed_up(" ")).body)
    assert nothing["content"] == [{"type": "compaction", "content": None}]


def test_a_stream_has_the_summary_when_it_is_whole() -> None:
    writer = parsed(compaction=SUMMARIZE, stream=True).writer(ACCEPTED)
    wire = writer.start() + b"".join(map(writer.event, summed_up("So ", "far."))) + writer.end()
    events = [json.loads(frame.split("data: ")[1]) for frame in wire.decode().split("\n\n")[:-1]]
    for event in events:
        SDK_EVENT.validate_python(event)
    assert [event["type"].removeprefix("content_block_") for event in events] == [
        "message_start",
        "start",
        "delta",
        "stop",
        "message_delta",
        "message_stop",
    ]
    assert events[2]["delta"] == {"type": "compaction_delta", "content": "So far."}


def test_the_conversation_goes_on_after_its_summary() -> None:
    block = {"type": "compaction", "content": "So far.", "signature": "x"}
    messages = [{"role": "assistant", "content": [block]}, {"role": "user", "content": "And now?"}]
    shown = [(message["role"], message["content"]) for message in prompt_of(messages=messages).messages]
    assert shown == [("user", f"{INTRODUCTION}So far.\n\nAnd now?")]
