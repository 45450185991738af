"""Responses in the background: answered at once, kept while they are made, streamed again, cancelled."""

import threading
import time
from typing import Any

import pytest

import contract
from contract.openai import background, running_responses
from contract.openai.responses import ResponsesWriter
from contract.sse import HEARTBEAT
from interface.events import Event, Failed
from tests.support.openai_answers import ACCEPTED, KEPT, named_events, parse, refused, reply_to, tokens, whole, why_not

PATH = "/v1/responses"


def begun(**body: Any) -> tuple[Any, str]:
    """A call in the background, and the id of its response."""
    call = parse(PATH, **{"input": "1 + 1?", "background": True, **body})
    if call.stream:
        return call, named_events(call.writer(ACCEPTED).start())[0]["response"]["id"]
    return call, whole(call, [])["id"]


def kept(id: str) -> dict[str, Any]:
    return reply_to("GET", f"{PATH}/{id}")


def recalled(id: str, query: bytes = b"stream=true") -> Any:
    endpoint = contract.endpoints_at(f"{PATH}/{id}")["GET"]
    return contract.parse(endpoint, contract.Incoming(path=f"{PATH}/{id}", query=query, kept=KEPT))


def test_a_response_in_the_background_is_answered_at_once_and_kept_until_it_is_whole() -> None:
    call, id = begun()
    assert (kept(id)["status"], kept(id)["background"], kept(id)["output"]) == ("in_progress", True, [])
    for event in tokens(["2", "!"]):
        call.take(event)
    response = kept(id)
    assert (response["status"], response["output"][0]["content"][0]["text"]) == ("completed", "2!")
    assert whole(call, []) == response
    parse(PATH, input="So?", previous_response_id=id)
    parse(PATH, input=[{"type": "item_reference", "id": response["output"][0]["id"]}])


def test_its_first_token_may_come_before_its_client_is_answered() -> None:
    call = parse(PATH, input="1 + 1?", background=True)
    for event in tokens(["2"]):
        call.take(event)
    assert whole(call, [])["status"] == "completed"


def test_its_first_token_may_come_while_its_client_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    call = parse(PATH, input="1 + 1?", background=True, stream=True)
    token, end = tokens(["2"])
    other_thread = threading.Thread(target=call.take, args=(token,))
    start = ResponsesWriter.start

    def slow_start(writer: ResponsesWriter) -> bytes:
        other_thread.start()
        other_thread.join(0.2)
        return start(writer)

    monkeypatch.setattr(ResponsesWriter, "start", slow_start)
    writer = call.writer(ACCEPTED)
    other_thread.join()
    call.take(end)
    types = [event["type"] for event in named_events(writer.start() + writer.end())]
    assert (types[0], types[-1]) == ("response.created", "response.completed")


def test_a_failure_is_what_its_client_finds() -> None:
    call, id = begun()
    call.take(Failed("no memory", "engine_error"))
    assert (kept(id)["status"], kept(id)["error"]["message"]) == ("failed", "no memory")


def test_one_that_is_being_made_has_nothing_to_follow_yet() -> None:
    _, id = begun()
    assert "has not ended" in refused(PATH, input="So?", previous_response_id=id)["message"]


def test_what_could_not_be_read_is_refused() -> None:
    assert refused(PATH, input="hi", background=True, store=False)["param"] == "background"


def test_its_conversation_grows_when_it_is_whole() -> None:
    conversation = reply_to("POST", "/v1/conversations", body={})["id"]
    call, _ = begun(conversation=conversation)
    listed = f"/v1/conversations/{conversation}/items"
    assert reply_to("GET", listed)["data"] == []
    for event in tokens(["2"]):
        call.take(event)
    assert len(reply_to("GET", listed)["data"]) == 2


@pytest.mark.parametrize("keep_every", [0.0, 1e9], ids=["in many pieces", "in two pieces"])
def test_its_stream_can_be_read_again_from_any_event_on(monkeypatch: pytest.MonkeyPatch, keep_every: float) -> None:
    monkeypatch.setattr(background, "KEEP_EVERY", keep_every)
    call = parse(PATH, input="1 + 1?", background=True, stream=True)
    written = streamed_by(call, tokens(["2", "", "!\n\n", " Done"]))
    events = named_events(written)
    id = events[0]["response"]["id"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert (events[-1]["type"], events[-1]["response"]) == ("response.completed", kept(id))
    for first in range(len(events) + 1):
        query = b"stream=true" if first == 0 else b"stream=true&starting_after=%d" % (first - 1)
        again = recalled(id, query)
        writer = again.writer(ACCEPTED)
        assert not again.look(), "all of it is there"
        if again.has_news:
            assert named_events(writer.silence()) == events[first:]
        else:
            assert first == len(events)
        assert writer.silence() == HEARTBEAT


def test_its_stream_can_be_read_while_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "KEEP_EVERY", 0.0)
    call, id = begun(stream=True)
    reader = recalled(id)
    writer = reader.writer(ACCEPTED)
    seen: list[str] = []
    *begun_tokens, end = tokens(["2", "!"])
    for event in begun_tokens:
        call.take(event)
        assert reader.look(), "there may be more"
        seen += [one["type"] for one in named_events(writer.silence())]
    assert seen[:2] == ["response.created", "response.in_progress"]
    assert seen.count("response.output_text.delta") == 2
    call.take(end)
    assert not reader.look()
    assert named_events(writer.silence())[-1]["type"] == "response.completed"


def test_a_cancelled_one_is_not_wanted_and_stays_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "KEEP_EVERY", 0.0)
    call, id = begun(stream=True)
    reader = recalled(id)
    first, *others = tokens(["2", "!"])
    call.take(first)
    assert call.is_wanted()
    cancelled = reply_to("POST", f"{PATH}/{id}/cancel")
    assert (cancelled["id"], cancelled["status"]) == (id, "cancelled")
    assert not call.is_wanted()
    for event in others:
        call.take(event)
    assert kept(id) == cancelled == reply_to("POST", f"{PATH}/{id}/cancel")
    assert not reader.look(), "who reads it waits for nothing"
    assert [item["content"][0]["text"] for item in reply_to("GET", f"{PATH}/{id}/input_items")["data"]] == ["1 + 1?"]


def test_one_whose_process_has_ended_is_shown_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    call, id = begun(stream=True)
    reader = recalled(id)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + running_responses.LEASE / 2)
    assert kept(id)["status"] == "in_progress"
    assert reader.look()
    monkeypatch.setattr(time, "monotonic", lambda: now + 2 * running_responses.LEASE)
    assert (kept(id)["status"], kept(id)["error"]["code"]) == ("failed", "server_error")
    assert not reader.look(), "who reads it waits for nothing"
    parse(PATH, input="So?", previous_response_id=id)
    assert call.is_wanted(), "it is slow, but goes on"
    assert kept(id)["status"] == "in_progress"


def test_one_goes_on_when_the_system_s_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    _, id = begun(stream=True)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * running_responses.LEASE)
    assert kept(id)["status"] == "in_progress"


def test_of_a_stream_that_is_too_long_only_the_beginning_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "KEEP_EVERY", 0.0)
    call, id = begun(stream=True)
    *first, end = tokens(["2", "!", "?"])
    call.take(first[0])
    monkeypatch.setattr(background, "MOST_KEPT", 0)
    for event in [*first[1:], end]:
        call.take(event)
    assert kept(id)["status"] == "completed"
    reader = recalled(id)
    assert not reader.look()
    types = [event["type"] for event in named_events(reader.writer(ACCEPTED).silence())]
    assert types[-1] == "response.output_text.delta"


def test_a_deleted_one_is_not_wanted_either() -> None:
    call, id = begun()
    reply_to("DELETE", f"{PATH}/{id}")
    assert not call.is_wanted()
    for event in tokens(["2"]):
        call.take(event)
    assert why_not("GET", f"{PATH}/{id}") == (404, None)


def test_cancelling_one_that_has_ended_changes_nothing() -> None:
    call, id = begun()
    for event in tokens(["2"]):
        call.take(event)
    assert reply_to("POST", f"{PATH}/{id}/cancel") == kept(id)
    assert kept(id)["status"] == "completed"


def test_only_what_was_streamed_in_the_background_can_be_streamed_again() -> None:
    others = [whole(parse(PATH, input="hi"), tokens(["2"]))["id"], begun()[1]]
    for id in others:
        with pytest.raises(contract.Refusal) as caught:
            recalled(id)
        assert (caught.value.status, caught.value.param) == (400, "stream")
        assert "in the background" in caught.value.message
    with pytest.raises(contract.Refusal) as caught:
        recalled("resp_none")
    assert caught.value.status == 404
    with pytest.raises(contract.Refusal) as caught:
        recalled(others[0], b"stream=true&starting_after=-1")
    assert (caught.value.status, caught.value.param) == (400, "starting_after")


def test_input_may_be_left_out_after_a_previous_response() -> None:
    first = whole(parse(PATH, input="1 + 1?"), tokens(["2"]))
    assert whole(parse(PATH, previous_response_id=first["id"]), tokens(["3"]))["status"] == "completed"
    assert refused(PATH)["param"] == "input"


def streamed_by(call: Any, events: list[Event]) -> bytes:
    """What the client that asks gets, if it reads each event as it comes."""
    writer = call.writer(ACCEPTED)
    parts = [writer.start()]
    for event in events:
        call.take(event)
        parts.append(writer.event(event))
    return b"".join([*parts, writer.end()])
