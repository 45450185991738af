"""Chat completions with `store: true` are listed, shown, changed and deleted, as OpenAI's API does it."""

import time
from itertools import count
from typing import Any

import pytest

from interface.events import Failed, Finished
from tests.support.openai_answers import KEPT, chunks, parse, refused, reply_to, tokens, whole, why_not

PATH = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def _nothing_is_stored() -> None:
    for name in KEPT.find("chat completion "):
        KEPT.drop(name)


def made(**body: Any) -> dict[str, Any]:
    fields = {"messages": [{"role": "user", "content": "1 + 1?"}], "store": True}
    return whole(parse(PATH, **fields | body), tokens(["2"]))


def listed(query: str = "") -> dict[str, Any]:
    return reply_to("GET", PATH, query.encode())


def ids(page: dict[str, Any]) -> list[str]:
    return [entry["id"] for entry in page["data"]]


def test_a_completion_is_shown_as_it_was_answered_with_its_metadata() -> None:
    completion = made(metadata={"topic": "sums"})
    assert reply_to("GET", f"{PATH}/{completion['id']}") == completion | {"metadata": {"topic": "sums"}}
    assert reply_to("GET", f"{PATH}/{made()['id']}")["metadata"] == {}


def test_only_completions_with_store_true_are_stored() -> None:
    for body in ({"store": False}, {"store": None, "metadata": {"a": 1}}):
        assert why_not("GET", f"{PATH}/{made(**body)['id']}") == (404, None)
    assert listed() == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


def test_two_requests_of_one_id_are_two_completions() -> None:
    first, second = made(), made()
    assert first["id"] != second["id"]
    assert ids(listed()) == [first["id"], second["id"]]


def test_completions_stay_in_their_order_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    times = count(2**60, -(10**9))
    monkeypatch.setattr(time, "time_ns", lambda: next(times))
    made_ids = [made()["id"] for _ in range(3)]
    assert ids(listed()) == made_ids
    reply_to("POST", f"{PATH}/{made_ids[0]}", body={"metadata": {"topic": "sums"}})
    assert ids(listed()) == made_ids, "a change of its metadata leaves a completion in its place"


@pytest.mark.parametrize("n", [1, 3])
def test_a_streamed_completion_is_stored_as_the_whole_one(n: int) -> None:
    events = [event for index in range(n) for event in tokens(["1", " and", " 2"], index)]
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "store": True, "n": n}
    stream = chunks(parse(PATH, stream=True, **body), events)
    stored = reply_to("GET", f"{PATH}/{stream[0]['id']}")
    answer = whole(parse(PATH, **body), events)
    assert stored["choices"] == answer["choices"]
    assert stored["usage"] == answer["usage"]
    assert {chunk["id"] for chunk in stream} == {stored["id"]}


@pytest.mark.parametrize("end", [Failed("no", "engine_error"), None], ids=["failed", "left"])
def test_a_stream_without_its_end_is_not_stored(end: Failed | None) -> None:
    events = [event for event in tokens(["1"]) if not isinstance(event, Finished)]
    chunks(
        parse(PATH, messages=[{"role": "user", "content": "hi"}], store=True, stream=True),
        [*events, *filter(None, [end])],
    )
    assert listed()["data"] == []


def test_completions_are_listed_oldest_first_in_pages() -> None:
    all_ids = [made()["id"] for _ in range(5)]
    after, pages = "", []
    for _ in count():
        page = listed(f"limit=2&after={after}")
        pages.append(ids(page))
        assert (page["first_id"], page["last_id"]) == (pages[-1][0], pages[-1][-1])
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert pages == [all_ids[:2], all_ids[2:4], all_ids[4:]]
    assert ids(listed("order=desc&limit=2")) == [all_ids[4], all_ids[3]]
    assert why_not("GET", PATH, b"after=chatcmpl-unknown") == (400, "after")
    assert why_not("GET", PATH, b"limit=0") == (400, "limit")


def test_completions_are_found_by_their_model_and_metadata() -> None:
    first = made(metadata={"a": "1", "b": "2"})
    second = made(model="another", metadata={"a": "1"})
    assert ids(listed("model=another")) == [second["id"]]
    assert ids(listed("metadata[a]=1")) == [first["id"], second["id"]]
    assert ids(listed("metadata%5Ba%5D=1&metadata%5Bb%5D=2")) == [first["id"]]
    assert ids(listed("metadata[a]=2")) == []
    assert ids(listed("other[a]=2&model=a-model")) == [first["id"]]


def test_metadata_is_replaced_and_the_place_in_the_list_stays() -> None:
    first, second = made(metadata={"a": "1"}), made()
    changed = reply_to("POST", f"{PATH}/{first['id']}", body={"metadata": {"b": "2"}})
    assert changed == first | {"metadata": {"b": "2"}}
    assert reply_to("GET", f"{PATH}/{first['id']}") == changed
    assert ids(listed("metadata[b]=2")) == [first["id"]]
    assert ids(listed("metadata[a]=1")) == []
    assert ids(listed()) == [first["id"], second["id"]]
    assert reply_to("GET", f"{PATH}/{first['id']}/messages")["data"]
    assert reply_to("POST", f"{PATH}/{first['id']}", body={"metadata": None})["metadata"] == {}


@pytest.mark.parametrize(
    "metadata", [{"a": 1}, {"a": "b" * 513}, {"a" * 65: "b"}, {str(number): "" for number in range(17)}]
)
def test_metadata_that_is_too_much_or_no_text_is_refused(metadata: Any) -> None:
    assert (
        refused(PATH, messages=[{"role": "user", "content": "hi"}], store=True, metadata=metadata)["param"]
        == "metadata"
    )
    assert why_not("POST", f"{PATH}/{made()['id']}", body={"metadata": metadata}) == (400, "metadata")


def test_a_deleted_completion_is_gone() -> None:
    completion = made()
    path = f"{PATH}/{completion['id']}"
    deleted = {"id": completion["id"], "object": "chat.completion.deleted", "deleted": True}
    assert reply_to("DELETE", path) == deleted
    for method, url, body in (
        ("DELETE", path, None),
        ("GET", path, None),
        ("POST", path, {"metadata": {}}),
        ("GET", f"{path}/messages", None),
    ):
        assert why_not(method, url, body=body) == (404, None)
    assert listed()["data"] == []


def test_no_name_of_another_piece_is_an_id() -> None:
    completion = made()
    for name in KEPT.find("chat "):
        if name != f"chat completion {completion['id']}":
            for ending in (name, name.removeprefix("chat "), name.removeprefix("chat completion ")):
                assert why_not("GET", f"{PATH}/{ending}") == (404, None)


def test_the_messages_are_listed_with_an_id_and_their_parts() -> None:
    parts = [{"type": "text", "text": "1"}, {"type": "text", "text": "+ 1?"}]
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "2"},
    ]
    completion = made(messages=messages)
    path = f"{PATH}/{completion['id']}/messages"
    page = reply_to("GET", path)
    numbered = [f"{completion['id']}-{number}" for number in range(4)]
    assert ids(page) == numbered
    assert (page["first_id"], page["last_id"], page["has_more"]) == (numbered[0], numbered[3], False)
    assert page["data"][0] == {**messages[0], "id": numbered[0], "content_parts": None}
    assert page["data"][1] == {"role": "user", "content": "1\n+ 1?", "content_parts": parts, "id": numbered[1]}
    assert page["data"][2]["tool_calls"] == [call]
    assert ids(reply_to("GET", path, b"order=desc&limit=1")) == numbered[3:]
    assert ids(reply_to("GET", path, f"after={numbered[1]}".encode())) == numbered[2:]
