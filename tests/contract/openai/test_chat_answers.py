"""`POST /v1/chat/completions`: events as deltas, and as a whole message."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from interface.events import ArgumentsPart, Failed, Logprobs, Part, TextPart, Token, TokenLogprob, ToolCallPart
from tests.support.answer_parts import ANSWERS, Tokens, calls_of
from tests.support.openai_answers import (
    FINISHED,
    MESSAGES,
    chunks,
    interleaved,
    joined_message,
    parse,
    parsed_tokens,
    tokens,
    whole,
)

PATH = "/v1/chat/completions"
CALL = ToolCallPart("add", '{"a": 1}')


def call(**body: Any) -> Any:
    return parse(PATH, messages=MESSAGES, **body)


def message_of(parts: list[tuple[Part, ...]], **body: Any) -> dict[str, Any]:
    """The message of the only choice."""
    (choice,) = whole(call(**body), parsed_tokens(parts))["choices"]
    message: dict[str, Any] = choice["message"]
    return message


def test_a_whole_answer_has_every_field_that_clients_look_for() -> None:
    answer = whole(call(), tokens(["Hi", " you"]))
    assert (answer["id"][:9], answer["object"]) == ("chatcmpl-", "chat.completion")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hi you", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]


def test_an_empty_answer_is_an_empty_text() -> None:
    (choice,) = whole(call(), [FINISHED])["choices"]
    assert choice["message"]["content"] == ""


def test_the_roles_come_first_and_in_order_and_the_usage_last() -> None:
    events = [*tokens(["b"], 1), *tokens(["a"], 0)]
    stream = chunks(call(n=2, stream=True, stream_options={"include_usage": True}), events)
    assert [chunk["choices"][0]["index"] for chunk in stream[:2]] == [0, 1]
    for chunk in stream[:2]:
        assert chunk["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert not any("role" in choice["delta"] for chunk in stream[2:] for choice in chunk["choices"])
    assert stream[-1]["choices"] == []
    assert stream[-1]["usage"]["total_tokens"] == 5
    assert len({(chunk["id"], chunk["created"], chunk["object"]) for chunk in stream}) == 1


def test_an_answer_that_may_be_calls_alone_does_not_begin_with_a_text() -> None:
    tool = {"type": "function", "function": {"name": "add"}}
    for offered in {"tools": [tool]}, {"functions": [tool["function"]]}:
        for parts in [(CALL,)], []:
            stream = chunks(call(stream=True, **offered), parsed_tokens(parts))
            assert stream[0]["choices"][0]["delta"] == {"role": "assistant"}
    (choice,) = whole(call(tools=[tool]), [FINISHED])["choices"]
    assert choice["message"]["content"] == ""


def test_a_token_without_text_has_no_chunk_and_the_end_has_an_empty_delta() -> None:
    stream = chunks(call(stream=True), tokens(["", "a", ""]))
    assert [chunk["choices"][0]["delta"] for chunk in stream] == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {},
    ]


def test_reasoning_stands_apart_from_content() -> None:
    message = message_of([(TextPart("reasoning", "so"),), (TextPart("reasoning", "."), TextPart("content", "4"))])
    assert (message["reasoning_content"], message["content"]) == ("so.", "4")


def test_a_tool_call_ends_an_answer_with_tool_calls() -> None:
    (choice,) = whole(call(), parsed_tokens([(CALL,)]))["choices"]
    (made,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert made["id"].startswith("call_")
    assert made["type"] == "function"
    assert made["function"] == {"name": "add", "arguments": '{"a": 1}'}


def test_a_cut_answer_says_so_even_after_a_tool_call() -> None:
    *made, finished = parsed_tokens([(CALL,)])
    assert finished == replace(FINISHED, completion_tokens=1)
    (choice,) = whole(call(), [*made, replace(FINISHED, finish_reason="length")])["choices"]
    assert choice["finish_reason"] == "length"


def test_arguments_are_never_an_empty_text() -> None:
    message = message_of([(ToolCallPart("now", ""),)])
    assert message["tool_calls"][0]["function"]["arguments"] == "{}"


def test_a_call_in_pieces_has_its_name_first_and_its_arguments_as_they_come() -> None:
    parts: Tokens = [(ToolCallPart("add", '{"a', is_whole=False),), (ArgumentsPart('": '),), (ArgumentsPart("1}"),)]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks(call(stream=True), parsed_tokens(parts))]
    first, *rest = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert first["id"].startswith("call_")
    assert first | {"id": ""} == {
        "index": 0,
        "id": "",
        "type": "function",
        "function": {"name": "add", "arguments": '{"a'},
    }
    assert rest == [
        {"index": 0, "function": {"arguments": '": '}},
        {"index": 0, "function": {"arguments": "1}"}},
    ]


def test_a_call_that_is_cut_off_keeps_its_beginning() -> None:
    *made, _ = parsed_tokens([(ToolCallPart("add", '{"a', is_whole=False),)])
    (choice,) = whole(call(), [*made, replace(FINISHED, finish_reason="length")])["choices"]
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a'}
    assert choice["finish_reason"] == "length"


def test_a_call_that_a_stop_string_cuts_off_is_not_to_be_made() -> None:
    for rest, reason in ((), "stop"), ((ArgumentsPart('": 1}'),), "tool_calls"):
        *made, _ = parsed_tokens([(ToolCallPart("add", '{"a', is_whole=False), *rest)])
        (choice,) = whole(call(), [*made, replace(FINISHED, stop_reason=",")])["choices"]
        assert choice["finish_reason"] == reason


def test_several_calls_have_ids_of_their_own_unless_only_one_is_wanted() -> None:
    made = message_of([(CALL, CALL), (CALL,)])["tool_calls"]
    assert len({chunk["id"] for chunk in made}) == 3
    assert len(message_of([(CALL, CALL), (CALL,)], parallel_tool_calls=False)["tool_calls"]) == 1


def test_log_probabilities_come_with_their_tokens() -> None:
    top = (TokenLogprob(1, "a", b"a", -0.5), TokenLogprob(2, "\ufffd", b"\xf0", float("-inf")))
    scored = Token("a", 1, 1.0, True, logprobs=Logprobs(top[0], top))
    held = Token("", 2, 1.0, False, logprobs=Logprobs(top[1]))
    body = call(logprobs=True, top_logprobs=2)
    (choice,) = whole(body, [scored, held, FINISHED])["choices"]
    first, second = choice["logprobs"]["content"]
    assert first == {
        "token": "a",
        "logprob": -0.5,
        "bytes": [97],
        "top_logprobs": [
            {"token": "a", "logprob": -0.5, "bytes": [97]},
            {"token": "\ufffd", "logprob": -9999.0, "bytes": [0xF0]},
        ],
    }
    assert second["top_logprobs"] == []
    assert choice["logprobs"]["refusal"] is None
    stream = chunks(body, [scored, held, FINISHED])
    assert [len((chunk["choices"][0]["logprobs"] or {}).get("content", ())) for chunk in stream] == [0, 1, 1, 0]


def test_what_is_continued_can_be_echoed() -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": "The answer"}]
    body = parse(PATH, messages=messages, continue_final_message=True, echo=True)
    (choice,) = whole(body, tokens([" is 4"]))["choices"]
    assert choice["message"]["content"] == "The answer is 4"
    assert joined_message(chunks(body, tokens([" is 4"])), 0)["content"] == "The answer is 4"


def test_token_ids_come_if_they_are_wanted() -> None:
    (choice,) = whole(call(return_token_ids=True), tokens(["a", ""]))["choices"]
    assert choice["token_ids"] == [0, 1]


def test_a_stream_that_fails_says_so_and_tells_no_usage() -> None:
    body = call(stream=True, stream_options={"include_usage": True})
    *_, last = chunks(body, [Token("Hi", 1, 1.0, True), Failed("why", "shutdown")])
    assert last == {"error": {"message": "why", "type": "server_error", "param": None, "code": 503}}


def test_every_chunk_can_count_the_tokens_so_far() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    stream = chunks(call(n=4, stream=True, stream_options=options), [*tokens(["a", "b"], 1), *tokens(["c"], 0)])
    assert [chunk["usage"]["completion_tokens"] for chunk in stream] == [0, 0, 0, 0, 1, 2, 2, 3, 3, 3]
    assert {chunk["usage"]["prompt_tokens"] for chunk in stream} == {3}
    several = chunks(
        call(stream=True, stream_options=options), [*tokens(["a"])[:-1], replace(FINISHED, completion_tokens=3)]
    )
    assert [chunk["usage"]["completion_tokens"] for chunk in several] == [0, 1, 3, 3]
    alone = chunks(call(stream=True, stream_options=options | {"include_usage": False}), tokens(["a"]))
    assert not any("usage" in chunk for chunk in alone)


@given(st.data(), st.lists(ANSWERS, min_size=1, max_size=3))
def test_the_deltas_of_each_choice_join_to_its_whole_message(data: st.DataObject, choices: list[Tokens]) -> None:
    events = data.draw(interleaved([parsed_tokens(choice, index) for index, choice in enumerate(choices)]))
    body = call(n=len(choices))
    answers = whole(body, events)["choices"]
    stream = chunks(body, events)
    for index, (parts, answer) in enumerate(zip(choices, answers, strict=True)):
        flat = [part for token in parts for part in token]
        message = answer["message"]
        joined = joined_message(stream, index)
        assert (message["content"] or "") == joined["content"]
        assert joined["content"] == "".join(p.text for p in flat if isinstance(p, TextPart) and p.kind == "content")
        assert message.get("reasoning_content", "") == joined.get("reasoning_content", "")
        made = [
            (tool_call["function"]["name"], tool_call["function"]["arguments"])
            for tool_call in message.get("tool_calls", ())
        ]
        assert made == [(tool_call["name"], tool_call["arguments"]) for tool_call in joined["tool_calls"]]
        assert made == calls_of(flat)
        assert message["role"] == joined["role"] == "assistant"
