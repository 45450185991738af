"""Conversations are kept here and grow with each response that names them, as OpenAI's API does it."""

import itertools
import time
import tracemalloc
from typing import Any

import pytest

import contract
from contract.openai.kept_conversations import KeptConversations
from contract.requests import MAX_TEXT_BYTES
from interface.events import Failed
from interface.requests import ChatPrompt
from tests.support.openai_answers import KEPT, parse, refused, reply_to, streamed, tokens, whole, why_not

PATH = "/v1/conversations"
RESPONSES = "/v1/responses"


def begun(*items: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return reply_to("POST", PATH, body={"items": list(items)} | fields)


def message(content: str, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": content}


def listed(conversation: dict[str, Any], query: bytes = b"order=asc") -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = reply_to("GET", f"{PATH}/{conversation['id']}/items", query)["data"]
    return items


def texts(items: list[dict[str, Any]]) -> list[str]:
    return [part["text"] for item in items for part in item["content"]]


def answered(conversation: Any, text: Any, answer: str = "2", **body: Any) -> dict[str, Any]:
    return whole(parse(RESPONSES, input=text, conversation=conversation, **body), tokens([answer]))


def prompt_of(call: Any) -> list[tuple[str, str]]:
    prompt = call.requests[0].prompt
    assert isinstance(prompt, ChatPrompt)
    return [(message["role"], message["content"]) for message in prompt.messages]


def test_a_conversation_is_begun_shown_changed_and_forgotten() -> None:
    conversation = begun(metadata={"topic": "sums"})
    path = f"{PATH}/{conversation['id']}"
    assert (conversation["object"], conversation["metadata"]) == ("conversation", {"topic": "sums"})
    assert reply_to("GET", path) == conversation
    assert reply_to("POST", path, body={"metadata": {"a": "b"}}) == conversation | {"metadata": {"a": "b"}}
    assert reply_to("GET", path)["metadata"] == {"a": "b"}
    assert reply_to("DELETE", path) == {"id": conversation["id"], "object": "conversation.deleted", "deleted": True}
    for method, ending, body in (
        ("GET", "", None),
        ("POST", "", {"metadata": {}}),
        ("DELETE", "", None),
        ("GET", "/items", None),
        ("POST", "/items", {"items": [message("hi")]}),
        ("GET", "/items/msg_1", None),
        ("DELETE", "/items/msg_1", None),
    ):
        assert why_not(method, path + ending, body=body)[0] == 404


def test_a_response_goes_on_with_a_conversation_and_joins_it() -> None:
    conversation = begun(message("Be brief.", "system"))
    first = answered(conversation["id"], "1 + 1?")
    assert first["conversation"] == {"id": conversation["id"]}
    second = parse(RESPONSES, input="So?", conversation={"id": conversation["id"]})
    expected = [("system", "Be brief."), ("user", "1 + 1?"), ("assistant", "2"), ("user", "So?")]
    assert prompt_of(second) == expected
    streamed(parse(RESPONSES, input="So?", conversation=conversation["id"], stream=True), tokens(["Yes", "."]))
    items = listed(conversation)
    assert texts(items) == ["Be brief.", "1 + 1?", "2", "So?", "Yes."]
    assert items[2] == first["output"][0]
    assert len({item["id"] for item in items}) == 5


def test_a_conversation_grows_also_if_the_response_itself_is_not_kept() -> None:
    conversation = begun()
    response = answered(conversation["id"], "1 + 1?", store=False)
    assert texts(listed(conversation)) == ["1 + 1?", "2"]
    assert why_not("GET", f"{RESPONSES}/{response['id']}")[0] == 404


def test_a_response_that_fails_adds_nothing() -> None:
    conversation = begun()
    call = parse(RESPONSES, input="1 + 1?", conversation=conversation["id"], stream=True)
    streamed(call, [*tokens(["2"])[:-1], Failed("no", "engine_error")])
    assert listed(conversation) == []


def test_a_conversation_that_is_forgotten_meanwhile_does_not_come_back() -> None:
    conversation = begun()
    call = parse(RESPONSES, input="1 + 1?", conversation=conversation["id"])
    reply_to("DELETE", f"{PATH}/{conversation['id']}")
    assert whole(call, tokens(["2"]))["status"] == "completed"
    assert why_not("GET", f"{PATH}/{conversation['id']}/items")[0] == 404


def test_two_responses_at_once_both_join_it() -> None:
    conversation = begun()
    calls = [parse(RESPONSES, input=text, conversation=conversation["id"]) for text in ("one", "two")]
    for call in reversed(calls):
        whole(call, tokens(["ok"]))
    assert texts(listed(conversation)) == ["two", "ok", "one", "ok"]


def test_items_stay_in_their_order_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    times = itertools.count(2**60, -(10**9))
    monkeypatch.setattr(time, "time_ns", lambda: next(times))
    conversation = begun(message("0"), message("1"))
    for number in (2, 3):
        reply_to("POST", f"{PATH}/{conversation['id']}/items", body={"items": [message(str(number))]})
    answered(conversation["id"], "4", answer="5")
    assert texts(listed(conversation)) == ["0", "1", "2", "3", "4", "5"]


def test_the_tokens_of_a_conversation_are_counted_and_it_is_summed_up() -> None:
    conversation = begun(message("1 + 1?"), message("2", "assistant"))
    compacted = parse(f"{RESPONSES}/compact", conversation=conversation["id"])
    assert prompt_of(compacted)[:2] == [("user", "1 + 1?"), ("assistant", "2")]
    assert isinstance(
        parse(f"{RESPONSES}/input_tokens", input="So?", conversation=conversation["id"]), contract.Question
    )


def test_items_are_added_listed_in_pages_read_and_forgotten() -> None:
    conversation = begun(message("0"))
    path = f"{PATH}/{conversation['id']}/items"
    call = {"type": "function_call", "name": "add", "call_id": "c", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": "3"}
    added = reply_to("POST", path, body={"items": [message("1"), call, result]})
    assert [item["type"] for item in added["data"]] == ["message", "function_call", "function_call_output"]
    assert (added["first_id"], added["last_id"]) == (added["data"][0]["id"], added["data"][2]["id"])
    items = listed(conversation)
    assert items[1:] == added["data"]
    assert listed(conversation, b"") == items[::-1], "the newest comes first, unless it is asked for otherwise"
    assert listed(conversation, f"order=asc&limit=2&after={items[0]['id']}".encode()) == items[1:3]
    assert reply_to("GET", f"{path}/{items[2]['id']}") == items[2]
    assert reply_to("DELETE", f"{path}/{items[1]['id']}") == conversation
    assert why_not("GET", f"{path}/{items[1]['id']}")[0] == 404
    assert listed(conversation) == [items[0], *items[2:]]
    assert why_not("GET", path, b"limit=0") == (400, "limit")
    assert why_not("GET", path, b"after=msg_x") == (400, "after")


def test_an_item_whose_id_is_taken_gets_another() -> None:
    conversation = begun(message("0") | {"id": "msg_a"})
    path = f"{PATH}/{conversation['id']}/items"
    reply_to("POST", path, body={"items": [message("1") | {"id": "msg_a"}, message("2") | {"id": "msg_b"}]})
    more = [message("3") | {"id": "msg_b"}, message("4") | {"id": "msg_c"}]
    whole(parse(RESPONSES, input=more, conversation=conversation["id"]), tokens(["5"]))
    items = listed(conversation)
    assert texts(items) == ["0", "1", "2", "3", "4", "5"]
    assert len({item["id"] for item in items}) == 6
    assert [items[place]["id"] for place in (0, 2, 4)] == ["msg_a", "msg_b", "msg_c"]


@pytest.mark.parametrize("items", [[{"type": "nonsense"}], [message("a"), {"role": "user"}], ["a"], 5])
def test_items_that_no_response_could_go_on_with_are_refused(items: Any) -> None:
    conversation = begun()
    for path in (PATH, f"{PATH}/{conversation['id']}/items"):
        status, param = why_not("POST", path, body={"items": items})
        assert status == 400
        assert (param or "").startswith("items")
    assert why_not("POST", f"{PATH}/{conversation['id']}/items", body={"items": []}) == (400, "items")


def test_metadata_that_is_no_text_is_refused() -> None:
    assert why_not("POST", PATH, body={"metadata": {"a": 1}}) == (400, "metadata")


def test_a_response_names_one_thing_that_it_goes_on_with() -> None:
    conversation = begun()
    response = answered(conversation["id"], "hi")
    asked_for = {"input": "So?", "conversation": conversation["id"], "previous_response_id": response["id"]}
    assert refused(RESPONSES, **asked_for)["param"] == "conversation"
    assert refused(RESPONSES, 404, input="hi", conversation="conv_unknown")["param"] == "conversation"
    for wrong in (5, {"name": "a"}):
        assert refused(RESPONSES, input="hi", conversation=wrong)["param"] == "conversation"


def test_a_conversation_may_be_larger_than_a_body_up_to_a_limit() -> None:
    conversation = begun()
    for number in range(1, 9):
        reply_to("POST", f"{PATH}/{conversation['id']}/items", body={"items": [message("a" * (MAX_TEXT_BYTES // 2))]})
        if number < 8:
            assert len(prompt_of(parse(RESPONSES, input="hi", conversation=conversation["id"]))) == number + 1
    error = refused(RESPONSES, 413, input="hi", conversation=conversation["id"])
    assert "sum it up" in error["message"]


def test_a_part_of_a_name_is_no_id() -> None:
    conversation = begun(message("secret"))
    for wrong in (conversation["id"][:-1], f"{conversation['id']} 0", " ", "said in"):
        assert why_not("GET", f"{PATH}/{wrong}/items")[0] == 404
    names = [name for name in KEPT.find("") if conversation["id"] in name and not name.startswith("conversation ")]
    assert len(names) == 1
    for name in (f"{names[0]}", names[0].partition(" ")[2]):
        refused(RESPONSES, 404, input=[{"type": "item_reference", "id": name}])
        assert why_not("GET", f"{PATH}/{name}")[0] == 404


def test_a_conversation_with_many_screenshots_is_gone_on_with_without_what_is_in_them() -> None:
    conversation = begun(message("Look."), message("A page.", "assistant"))
    image = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 900_000}
    for number in range(6):
        shown = {"type": "function_call_output", "call_id": f"c{number}", "output": [image]}
        call = {"type": "function_call", "call_id": f"c{number}", "name": "look", "arguments": "{}"}
        reply_to("POST", f"{PATH}/{conversation['id']}/items", body={"items": [call, shown]})
    assert answered(conversation["id"], "So?", "Yes.")["output"][0]["content"][0]["text"] == "Yes."
    assert listed(conversation, b"order=desc&limit=4")[2]["output"] == [image], "it is listed as it came"


def test_a_conversation_takes_items_however_many_images_it_has_had() -> None:
    conversation, kept = begun(message("Look.")), KeptConversations(KEPT)
    image = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 40}
    for _ in range(9):
        kept.add(conversation["id"], [{"type": "function_call_output", "id": "x", "call_id": "c", "output": [image]}])
        assert sum(map(len, kept.fitted(conversation["id"], 1200))) <= 1200
    first, *others = kept.items(conversation["id"])
    assert texts([first]) == ["Look."]
    shown = [item["output"][0]["image_url"] for item in others]
    assert 0 < shown.count("") < 9
    assert shown == sorted(shown), "the newest images are still there"


def test_a_conversation_that_no_response_could_go_on_with_takes_no_further_items() -> None:
    conversation = begun()
    path = f"{PATH}/{conversation['id']}/items"
    for _ in range(8):
        reply_to("POST", path, body={"items": [message("a" * (MAX_TEXT_BYTES // 2))]})
    assert why_not("POST", path, body={"items": [message("more")]})[0] == 413


@pytest.mark.parametrize("id", [[], {"a": 1}, 5])
def test_an_item_whose_id_is_no_text_gets_one(id: Any) -> None:
    conversation = begun({**message("hi"), "id": id})
    assert answered(conversation["id"], [{**message("and?"), "id": id}])["status"] == "completed"
    ids = [item["id"] for item in listed(conversation)]
    assert len(set(ids)) == 3
    assert all(found.startswith("msg_") for found in ids)


def test_a_long_conversation_is_not_in_memory_as_objects_while_items_are_added_to_it() -> None:
    conversation = begun(*[message("hi")] * 5000)
    path = f"{PATH}/{conversation['id']}/items"
    kept = sum(map(len, KEPT.find(f"said in {conversation['id']} ").values()))
    tracemalloc.start()
    try:
        reply_to("POST", path, body={"items": [message("one more")]})
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 * kept
