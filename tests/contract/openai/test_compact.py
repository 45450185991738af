"""`POST /v1/responses/compact` sums up a conversation, and later requests send the summary back."""

import json
from typing import Any

import pytest

from contract.summaries import REQUEST, SUMMARY_TOKENS
from interface.events import Event, Failed, TextPart
from tests.support.asgi_client import JSON
from tests.support.openai_answers import ACCEPTED, parse, parsed_tokens, refused, tokens, whole
from tests.support.serving import Door, by_hand

PATH = "/v1/responses/compact"
INPUT = [
    {"role": "user", "content": "Mend it."},
    {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "1", "output": "a line"},
    {"role": "assistant", "content": "Done."},
    {"role": "user", "content": [{"type": "input_text", "text": "Thanks."}]},
]


def test_the_model_is_asked_to_sum_up_the_whole_conversation() -> None:
    tool = {"type": "function", "name": "look", "parameters": {"type": "object"}}
    (request,) = parse(PATH, input=INPUT, instructions="Be brief.", tools=[tool]).requests
    roles = [message["role"] for message in request.prompt.messages]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "user", "user"]
    assert request.prompt.messages[-1]["content"] == REQUEST
    assert (request.prompt.tools, request.prompt.leave_room) == (None, SUMMARY_TOKENS)
    assert (request.params.max_tokens, request.params.temperature) == (SUMMARY_TOKENS, 0)
    assert request.clamp_max_tokens
    assert request.parse_response


def test_the_answer_has_the_users_messages_and_the_summary() -> None:
    parts = [(TextPart("reasoning", "hm"),), (TextPart("content", "It is "),), (TextPart("content", "mended.\n"),)]
    answer = whole(parse(PATH, input=INPUT), parsed_tokens(parts))
    first, second, summary = answer["output"]
    assert (answer["object"], answer["usage"]["output_tokens"]) == ("response.compaction", 3)
    assert [(message["role"], message["content"][0]["text"]) for message in (first, second)] == [
        ("user", "Mend it."),
        ("user", "Thanks."),
    ]
    assert (summary["type"], summary["id"][:4], summary["encrypted_content"]) == (
        "compaction",
        "cmp_",
        "summary:It is mended.",
    )


def test_a_summary_that_comes_back_is_shown_to_the_model() -> None:
    output = whole(parse(PATH, input=INPUT), tokens(["It is mended."]))["output"]
    items = [*output, {"role": "user", "content": "And now?"}]
    messages = parse("/v1/responses", input=items).requests[0].prompt.messages
    assert [message["role"] for message in messages] == ["user", "user", "assistant", "user"]
    assert messages[2]["content"] == "Summary of the conversation so far:\nIt is mended."


def test_a_kept_response_may_be_compacted() -> None:
    first = whole(parse("/v1/responses", input="Mend it."), tokens(["Done."]))
    messages = parse(PATH, previous_response_id=first["id"]).requests[0].prompt.messages
    assert [message["content"] for message in messages] == ["Mend it.", "Done.", REQUEST]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "compaction", "encrypted_content": "gAAAA"}]}, "input.0"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ],
)
def test_what_cannot_be_compacted_is_refused(body: dict[str, Any], param: str) -> None:
    assert refused(PATH, **body)["param"] == param


@pytest.mark.parametrize(
    ("events", "message"),
    [([Failed("it broke", "engine_error")], "it broke"), (tokens([" "]), "The model wrote no summary.")],
)
def test_a_failure_is_a_500_with_its_reason(events: list[Event], message: str) -> None:
    answer = parse(PATH, input="hi").answer(ACCEPTED, events)
    assert (answer.status, json.loads(answer.body)["error"]["message"]) == (500, message)


@pytest.mark.anyio
async def test_the_path_is_not_taken_for_a_responses_id(door: Door) -> None:
    async with by_hand(door) as service:
        response = await service.client.request("POST", PATH, json.dumps({"input": "hello"}).encode(), JSON)
    assert (response.status, response.json()["object"]) == (200, "response.compaction")
