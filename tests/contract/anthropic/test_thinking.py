"""Thinking blocks, without a server: what they show, and what comes back of them."""

import pytest

from interface.events import Finished, TextPart
from tests.support.anthropic_answers import put_together, streamed, tokens_of, whole, without_ids
from tests.support.anthropic_requests import prompt_of

FINISHED = Finished("stop", 9, 4, prefill_ms=1, decode_ms=1, total_ms=2)


def test_a_thinking_block_ends_with_its_signature() -> None:
    events = streamed([*tokens_of(TextPart("reasoning", "hm"), TextPart("content", "4")), FINISHED])
    assert [event["delta"]["type"] for event in events if event["type"] == "content_block_delta"] == [
        "thinking_delta",
        "signature_delta",
        "text_delta",
    ]
    assert (
        events[3]["delta"]["signature"]
        == whole([*tokens_of(TextPart("reasoning", "hm")), FINISHED])["content"][0]["signature"]
    )


@pytest.mark.parametrize("display", ["omitted", "updates"])
def test_thinking_that_a_client_does_not_want_to_see_is_left_out(display: str) -> None:
    events = [*tokens_of(TextPart("reasoning", "h"), TextPart("reasoning", "m"), TextPart("content", "4")), FINISHED]
    omitted = {"type": "adaptive", "display": display}
    message = whole(events, thinking=omitted)
    assert [(block["type"], block.get("thinking", block.get("text"))) for block in message["content"]] == [
        ("thinking", ""),
        ("text", "4"),
    ]
    stream = streamed(events, thinking=omitted)
    deltas = [event["delta"]["type"] for event in stream if event["type"] == "content_block_delta"]
    assert deltas == ["signature_delta", "text_delta"]
    assert without_ids(put_together(stream)) == without_ids(message)


def test_thinking_that_was_left_out_is_part_of_the_conversation_when_it_comes_back() -> None:
    events = [*tokens_of(TextPart("reasoning", "hm"), TextPart("content", "4")), FINISHED]
    answered = whole(events, thinking={"type": "adaptive", "display": "omitted"})["content"]
    asked = {"role": "user", "content": "2 + 2?"}
    messages = [asked, {"role": "assistant", "content": answered}, asked]
    assert prompt_of(messages=messages).messages[1] == {
        "role": "assistant",
        "content": "4",
        "reasoning_content": "hm",
    }


def test_thinking_that_another_server_has_left_out_is_none() -> None:
    elsewhere = [{"type": "thinking", "thinking": "", "signature": "EqQB"}, {"type": "text", "text": "4"}]
    asked = {"role": "user", "content": "2 + 2?"}
    messages = [asked, {"role": "assistant", "content": elsewhere}, asked]
    assert "reasoning_content" not in prompt_of(messages=messages).messages[1]


@pytest.mark.parametrize("display", [None, "summarized"])
def test_thinking_is_shown_unless_it_is_omitted(display: str | None) -> None:
    events = [*tokens_of(TextPart("reasoning", "hm")), FINISHED]
    (block,) = whole(events, thinking={"type": "adaptive", "display": display})["content"]
    assert block["thinking"] == "hm"


def test_the_tokens_of_the_reasoning_are_counted() -> None:
    finished = Finished("stop", 9, 4, prefill_ms=1, decode_ms=1, total_ms=2, reasoning_tokens=3)
    events = [*tokens_of(TextPart("reasoning", "hm")), finished]
    assert whole(events)["usage"]["output_tokens_details"] == {"thinking_tokens": 3}
    assert streamed(events)[-2]["usage"]["output_tokens_details"] == {"thinking_tokens": 3}
