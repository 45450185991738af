"""Kept responses are shown, listed and deleted by their id, as OpenAI's API does it."""

from typing import Any

import pytest

import contract
from interface.events import Failed
from tests.support.openai_answers import named_events, parse, refused, reply_to, streamed, tokens, whole

PATH = "/v1/responses"


def why_not(method: str, path: str, query: bytes = b"") -> tuple[int, str, str | None]:
    with pytest.raises(contract.Refusal) as caught:
        reply_to(method, path, query)
    return caught.value.status, caught.value.message, caught.value.param


def made(**body: Any) -> dict[str, Any]:
    return whole(parse(PATH, **body), tokens(["2"]))


def test_a_response_is_shown_as_it_was_answered() -> None:
    response = made(input="1 + 1?", metadata={"a": "b"})
    assert reply_to("GET", f"{PATH}/{response['id']}") == response
    assert reply_to("GET", f"{PATH}/{response['id']}", b"include=reasoning.encrypted_content&stream=false") == response


def test_a_stream_that_failed_is_shown_as_its_client_saw_it() -> None:
    call = parse(PATH, input="1 + 1?", stream=True)
    *_, failed = named_events(streamed(call, [*tokens(["2"])[:-1], Failed("no memory", "engine_error")]))
    assert failed["type"] == "response.failed"
    assert reply_to("GET", f"{PATH}/{failed['response']['id']}") == failed["response"]


def test_a_deleted_response_is_gone_with_its_items_and_those_that_followed_it_stay() -> None:
    first = made(input="1 + 1?")
    second = made(input="So?", previous_response_id=first["id"])
    assert reply_to("DELETE", f"{PATH}/{first['id']}") == {"id": first["id"], "object": "response", "deleted": True}
    assert why_not("GET", f"{PATH}/{first['id']}")[0] == 404
    refused(PATH, input="So?", previous_response_id=first["id"])
    refused(PATH, 404, input=[{"type": "item_reference", "id": first["output"][0]["id"]}])
    assert reply_to("GET", f"{PATH}/{second['id']}") == second
    parse(PATH, input="So?", previous_response_id=second["id"])


@pytest.mark.parametrize(
    ("method", "ending"), [("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")]
)
def test_an_unknown_id_is_a_404_whatever_is_asked_of_it(method: str, ending: str) -> None:
    response, unkept = made(input="hi"), made(input="hi", store=False)
    for id in ("resp_unknown", unkept["id"], response["output"][0]["id"], f"response {response['id']}", " ", "input"):
        status, message, _ = why_not(method, f"{PATH}/{id}{ending}")
        assert status == 404
        assert message.startswith(f"Response with id '{id}' not found. Responses are kept in memory")


def test_the_input_of_a_response_is_listed_newest_first_with_an_id_and_parts_for_each_item() -> None:
    call = {"type": "function_call", "name": "add", "call_id": "c", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": "3"}
    messages = [{"role": "user", "content": "1 + 2?"}, call, result, {"role": "assistant", "content": "3"}]
    response = made(input=[*messages, {"role": "user", "content": ["So", {"type": "input_text", "text": "?"}]}])
    listed = reply_to("GET", f"{PATH}/{response['id']}/input_items")
    items = listed["data"]
    assert [item["type"] for item in items] == [
        "message",
        "message",
        "function_call_output",
        "function_call",
        "message",
    ]
    assert [item["id"].partition("_")[0] for item in items] == ["msg", "msg", "fco", "fc", "msg"]
    question, answer = [{"type": "input_text", "text": text} for text in ("So", "?")], items[1]["content"]
    assert items[0] == {**items[0], "role": "user", "status": "completed", "content": question}
    assert answer == [{"type": "output_text", "text": "3", "annotations": [], "logprobs": []}]
    assert items[3] == {**call, "id": items[3]["id"], "status": "completed"}
    ends = (listed["object"], listed["first_id"], listed["last_id"], listed["has_more"])
    assert ends == ("list", items[0]["id"], items[-1]["id"], False)
    assert reply_to("GET", f"{PATH}/{response['id']}/input_items") == listed, "each item has the same id the next time"


def test_the_input_of_a_response_has_all_that_came_before_it() -> None:
    first = made(input="1 + 1?")
    second = made(input="So?", previous_response_id=first["id"])
    items = reply_to("GET", f"{PATH}/{second['id']}/input_items", b"order=asc")["data"]
    assert [item["content"][0]["text"] for item in items] == ["1 + 1?", "2", "So?"]
    assert items[1] == first["output"][0]


def test_a_page_has_twenty_items_unless_another_number_is_asked_for() -> None:
    items = [{"role": "user", "content": str(number)} for number in range(21)]
    listed = reply_to("GET", f"{PATH}/{made(input=items)['id']}/input_items")
    assert (len(listed["data"]), listed["has_more"]) == (20, True)


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_the_input_comes_in_pages(order: str) -> None:
    items = [{"id": f"msg_{number}", "role": "user", "content": str(number)} for number in range(5)]
    path, after = f"{PATH}/{made(input=items)['id']}/input_items", ""
    pages: list[list[str]] = []
    while len(pages) < 5:
        listed = reply_to("GET", path, f"limit=2&order={order}&after={after}".encode())
        pages.append([item["id"] for item in listed["data"]])
        after = listed["last_id"]
        if not listed["has_more"]:
            break
    numbers = [0, 1, 2, 3, 4] if order == "asc" else [4, 3, 2, 1, 0]
    ids = [f"msg_{number}" for number in numbers]
    assert pages == [ids[:2], ids[2:4], ids[4:]]
    assert reply_to("GET", path, f"order={order}&after={ids[-1]}".encode())["data"] == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("limit=", "limit"),
        ("order=up", "order"),
        ("order=", "order"),
        ("after=msg_x", "after"),
    ],
)
def test_a_page_that_there_cannot_be_is_refused_by_the_name_of_what_is_wrong(query: str, param: str) -> None:
    response = made(input="hi")
    status, message, named = why_not("GET", f"{PATH}/{response['id']}/input_items", query.encode())
    assert (status, named) == (400, param)
    assert message.startswith(f"{param}: ")


def test_a_query_of_many_parameters_is_refused() -> None:
    response = made(input="hi")
    status, message, _ = why_not("GET", f"{PATH}/{response['id']}", b"&".join([b"a=b"] * 101))
    assert (status, "at most 100 parameters" in message) == (400, True)


def test_what_was_not_asked_for_in_the_background_cannot_be_cancelled_and_nothing_streamed_again() -> None:
    response = made(input="hi")
    status, message, _ = why_not("POST", f"{PATH}/{response['id']}/cancel")
    assert status == 400
    assert message.startswith("Cannot cancel a synchronous response.")
    status, message, param = why_not("GET", f"{PATH}/{response['id']}", b"stream=true")
    assert (status, param) == (400, "stream")
    assert "in the background" in message
