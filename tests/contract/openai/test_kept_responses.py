"""Later requests to `/v1/responses` refer to what earlier ones said and were answered."""

import random
from typing import Any

import pytest

import contract
from backends.kept_in_memory import KeptInMemory
from contract.openai.kept_responses import KeptResponses
from interface.events import TextPart, ToolCallPart
from tests.support.openai_answers import named_events, parse, parsed_tokens, refused, streamed, tokens, whole

PATH = "/v1/responses"
ADD = {"type": "function", "name": "add", "parameters": {"type": "object"}}
THINKS_AND_CALLS = parsed_tokens([(TextPart("reasoning", "hm"),), (ToolCallPart("add", '{"a": 1}'),)])


def messages_of(call: Any) -> Any:
    return call.requests[0].prompt.messages


def test_a_conversation_goes_on_after_a_response_without_its_instructions() -> None:
    first = whole(parse(PATH, input="1 + 1?", instructions="Be brief."), tokens(["2"]))
    second_call = parse(PATH, input="And 2 + 2?", instructions="Be kind.", previous_response_id=first["id"])
    assert messages_of(second_call) == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "And 2 + 2?"},
    ]
    second = whole(second_call, tokens(["4"]))
    assert second["previous_response_id"] == first["id"]
    third = parse(PATH, input="So?", previous_response_id=second["id"])
    assert [message["content"] for message in messages_of(third)] == ["1 + 1?", "2", "And 2 + 2?", "4", "So?"]


def test_a_streamed_response_is_kept_too() -> None:
    events = named_events(streamed(parse(PATH, input="1 + 1?", stream=True), tokens(["2"])))
    call = parse(PATH, input="So?", previous_response_id=events[-1]["response"]["id"])
    assert [message["content"] for message in messages_of(call)] == ["1 + 1?", "2", "So?"]


def test_items_of_an_answer_need_only_be_named() -> None:
    first = whole(parse(PATH, input="1 + 2?", tools=[ADD]), THINKS_AND_CALLS)
    thought, call = first["output"]
    references = [{"id": thought["id"]}, {"id": call["id"], "type": None}]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "3"}
    second = parse(PATH, input=[{"role": "user", "content": "1 + 2?"}, *references, result], tools=[ADD])
    called = {"id": call["call_id"], "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    assert messages_of(second) == [
        {"role": "user", "content": "1 + 2?"},
        {"role": "assistant", "reasoning_content": "hm", "tool_calls": [called]},
        {"role": "tool", "tool_call_id": call["call_id"], "content": "3"},
    ]


def test_references_are_resolved_before_a_conversation_is_kept() -> None:
    first = whole(parse(PATH, input="1 + 1?"), tokens(["2"]))
    named = {"type": "item_reference", "id": first["output"][0]["id"]}
    second = whole(parse(PATH, input=[named, {"role": "user", "content": "So?"}]), tokens(["4"]))
    third = parse(PATH, input="Why?", previous_response_id=second["id"])
    assert [message["content"] for message in messages_of(third)] == ["2", "So?", "4", "Why?"]


def test_what_is_not_kept_is_refused_in_openais_words_and_with_what_to_do() -> None:
    unkept = whole(parse(PATH, input="hi", store=False), tokens(["a"]))
    for id in (unkept["id"], "resp_unknown"):
        error = refused(PATH, input="So?", previous_response_id=id)
        assert (error["code"], error["param"]) == ("previous_response_not_found", "previous_response_id")
        assert error["message"].startswith(f"Previous response with id '{id}' not found. Responses are kept in memory")
    error = refused(PATH, 404, input=[{"type": "item_reference", "id": unkept["output"][0]["id"]}])
    assert error["param"] == "input"
    assert "Send the whole conversation" in error["message"]


def test_two_responses_to_requests_of_one_id_are_two() -> None:
    first, second = (whole(parse(PATH, input=text), tokens([text])) for text in ("a", "b"))
    assert first["id"] != second["id"]


def test_a_request_refers_to_no_more_than_a_body_may_have() -> None:
    text = "a" * (contract.MAX_TEXT_BYTES // 4)
    first = whole(parse(PATH, input="hi"), tokens([text]))
    item = {"type": "item_reference", "id": first["output"][0]["id"]}
    assert messages_of(parse(PATH, input=[item] * 3)) == [{"role": "assistant", "content": text}] * 3
    with pytest.raises(contract.Refusal, match="refer to at most") as caught:
        parse(PATH, input=[item] * 4)
    assert caught.value.status == 413
    assert len(messages_of(parse(PATH, input=[item] * 3, previous_response_id=first["id"]))) == 5


def test_a_conversation_may_be_longer_than_one_body() -> None:
    text, id = "a" * (contract.MAX_TEXT_BYTES - 200), None
    for _ in range(3):
        id = whole(parse(PATH, input=text, previous_response_id=id), tokens(["b"]))["id"]
    assert [one["content"] for one in messages_of(parse(PATH, input="So?", previous_response_id=id))][::2] == [
        *[text] * 3,
        "So?",
    ]
    id = whole(parse(PATH, input=text, previous_response_id=id), tokens(["b"]))["id"]
    error = refused(PATH, 413, input="So?", previous_response_id=id)
    assert "at most 4194304 bytes" in error["message"]


def test_the_turns_of_a_conversation_are_kept_in_little_more_room_than_the_last_one() -> None:
    kept = KeptInMemory(most_bytes=600_000)
    ids: list[str | None] = [None]
    for number in range(40):
        text = random.Random(number).randbytes(2000).hex()
        ids.append(whole(parse(PATH, kept, input=text, previous_response_id=ids[-1]), tokens(["b"]))["id"])
    inputs = [KeptResponses(kept).input(str(id)) for id in ids[1:]]
    assert sum(map(len, inputs)) > 3_000_000
    assert len(messages_of(parse(PATH, kept, input="So?", previous_response_id=ids[-1]))) == 81


def test_each_turn_of_a_conversation_may_bring_a_screenshot() -> None:
    """Each body is small; all of them together are larger than what may be gone on with, and than what is kept."""
    kept, id = KeptInMemory(most_bytes=8 * contract.MAX_TEXT_BYTES), None
    for number in range(10):
        image = {"type": "input_image", "image_url": "data:image/png;base64," + str(number) * 900_000}
        call = {"type": "function_call", "call_id": f"c{number}", "name": "look", "arguments": "{}"}
        shown = {"type": "function_call_output", "call_id": f"c{number}", "output": [image]}
        id = whole(parse(PATH, kept, input=[call, shown], previous_response_id=id), tokens([f"{number}."]))["id"]
    said = messages_of(parse(PATH, kept, input="So?", previous_response_id=id))
    assert [message["content"] for message in said if message["role"] == "assistant" and message.get("content")] == [
        f"{number}." for number in range(10)
    ]


def test_as_many_short_items_as_a_body_holds_can_be_gone_on_with() -> None:
    """They are kept with all of their fields, which are longer than the items."""
    said = [{"role": "user", "content": str(number)} for number in range(5_000)]
    first = whole(parse(PATH, input=said), tokens(["b"]))
    assert len(messages_of(parse(PATH, input="So?", previous_response_id=first["id"]))) == 5_002
