"""Images, sound and files in conversations: a question about them is refused, and everything else goes on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

import contract
from contract.media import without_media
from interface.requests import ChatPrompt

Message = dict[str, Any]
URL = "data:image/png;base64,iVBORw0KGgo="
NOTE = "[An image was here. You take only text, and cannot see it.]"


@dataclass(frozen=True)
class Api:
    """How an API writes the same conversation."""

    path: str
    messages: str
    image: Message
    asked: Sequence[Message]
    """A message of the user's, then a call that the assistant makes."""

    def text(self, text: str) -> Message:
        return {"type": "input_text" if self.messages == "input" else "text", "text": text}

    def user(self, *parts: Message) -> Message:
        return {"role": "user", "content": list(parts)}

    def result(self, *parts: Message) -> Message:
        match self.path:
            case "/v1/messages":
                return self.user({"type": "tool_result", "tool_use_id": "c", "content": list(parts)})
            case "/v1/responses":
                return {"type": "function_call_output", "call_id": "c", "output": list(parts)}
        return {"role": "tool", "tool_call_id": "c", "content": list(parts)}

    def shown(self, *messages: Message) -> list[tuple[str, str]]:
        """The roles and texts that the chat template gets."""
        body = {"max_tokens": 5, self.messages: [*self.asked, *messages]}
        if self.path == "/v1/responses":
            del body["max_tokens"]
        (endpoint,) = (one for one in contract.ENDPOINTS if one.path == self.path and one.method == "POST")
        call = contract.parse(endpoint, contract.Incoming(json.dumps(body).encode(), self.path, models=["m"]))
        assert not isinstance(call, contract.Question)
        prompt = call.requests[0].prompt
        assert isinstance(prompt, ChatPrompt)
        return [(message["role"], message.get("content", "")) for message in prompt.messages]


USER = {"role": "user", "content": "Look at the page."}
CHAT = Api(
    "/v1/chat/completions",
    "messages",
    {"type": "image_url", "image_url": {"url": URL}},
    [USER, {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "look", "arguments": "{}"}}]}],
)
RESPONSES = Api(
    "/v1/responses",
    "input",
    {"type": "input_image", "image_url": URL, "detail": "auto"},
    [USER, {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}],
)
MESSAGES = Api(
    "/v1/messages",
    "messages",
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
    [USER, {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "look", "input": {}}]}],
)
every_api = pytest.mark.parametrize("api", [CHAT, RESPONSES, MESSAGES], ids=lambda api: api.path)


@every_api
def test_a_note_stands_in_for_an_image_that_a_tool_has_returned(api: Api) -> None:
    shown = api.shown(api.result(api.text("Saved."), api.image))
    assert shown[-1] == ("tool", f"Saved.\n{NOTE}")


@every_api
def test_a_note_stands_in_for_an_image_that_comes_with_a_result(api: Api) -> None:
    shown = api.shown(api.result(api.text("See below.")), api.user(api.text("From the tool:"), api.image))
    assert shown[-1] == ("user", f"From the tool:\n{NOTE}")


@every_api
def test_a_note_stands_in_for_an_image_of_an_earlier_turn(api: Api) -> None:
    answer = {"role": "assistant", "content": "A cat."}
    shown = api.shown(api.result(api.text("ok")), answer, api.user(api.image), answer, api.user(api.text("Sure?")))
    assert shown[-3:] == [("user", NOTE), ("assistant", "A cat."), ("user", "Sure?")]


@every_api
def test_a_question_about_an_image_is_refused(api: Api) -> None:
    answer = {"role": "assistant", "content": "Done."}
    with pytest.raises(contract.Refusal) as refused:
        api.shown(api.result(api.text("ok")), answer, api.user(api.text("What is this?"), api.image))
    assert refused.value.status == 400
    assert "text" in refused.value.message
    assert (refused.value.param or "").startswith(f"{api.messages}.4.content")


@every_api
def test_instructions_that_are_an_image_are_refused(api: Api) -> None:
    with pytest.raises(contract.Refusal):
        api.shown({"role": "system", "content": [api.image]}, api.result(api.text("ok")))


def large(part: Message) -> Message:
    """A part with as much in it as no text may have."""
    written = json.dumps(part).replace("iVBORw0KGgo=", "iVBORw0KGgo=" * (contract.MAX_TEXT_BYTES // 8))
    grown: Message = json.loads(written)
    return grown


@every_api
def test_images_may_be_larger_than_texts(api: Api) -> None:
    image = large(api.image)
    assert len(json.dumps(image)) > contract.MAX_TEXT_BYTES
    assert api.shown(api.result(api.text("Saved."), image, image))[-1] == ("tool", f"Saved.\n{NOTE}\n{NOTE}")


@every_api
def test_a_text_is_not_taken_for_an_image_because_an_image_comes_with_it(api: Api) -> None:
    text = "data:image/png;base64," + "iVBORw0KGgo=" * 1000
    shown = api.shown(api.result(api.text(text), large(api.image)))
    assert shown[-1] == ("tool", f"{text}\n{NOTE}")
    with pytest.raises(contract.Refusal) as refused:
        api.shown(api.result(large(api.text(URL)), api.image))
    assert (refused.value.status, "besides images" in refused.value.message) == (413, True)


def test_the_text_of_a_document_stays_where_an_image_comes_with_it() -> None:
    parts = [{"type": "text", "text": "Inside."}, MESSAGES.image]
    plain = {
        "type": "document",
        "title": "One",
        "source": {"type": "text", "media_type": "text/plain", "data": "Text."},
    }
    mixed = {"type": "document", "title": "Two", "source": {"type": "content", "content": parts}}
    (*_, (_, shown)) = MESSAGES.shown(MESSAGES.result(plain, mixed, large(MESSAGES.image)))
    assert shown == f"One\nText.\nTwo\nInside.\n{NOTE}\n{NOTE}"


def test_the_arguments_of_a_call_stay_where_an_image_comes_with_it() -> None:
    arguments = {"type": "image", "data": "kept", "content": [MESSAGES.image]}
    call = {"type": "tool_use", "id": "d", "name": "draw", "input": arguments}
    again = {"role": "assistant", "content": [call]}
    body = without_media(json.dumps({"messages": [again, MESSAGES.result(large(MESSAGES.image))]}).encode())
    assert json.loads(body)["messages"][0] == again


@pytest.mark.parametrize("inner", ["[1, 2], ", '"a", ', "1, ", '{"type": "image", "data": "a"}, ', '"\\"", '])
def test_a_body_that_takes_long_to_parse_is_refused_before_it_is_parsed(
    inner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = ('{"messages": [' + inner * (4 * contract.MAX_TEXT_BYTES // len(inner))).encode()
    monkeypatch.setattr("contract.media.from_json", pytest.fail)
    (endpoint,) = (one for one in contract.ENDPOINTS if one.path == CHAT.path and one.method == "POST")
    with pytest.raises(contract.Refusal) as refused:
        contract.parse(endpoint, contract.Incoming(body, CHAT.path, models=["m"]))
    assert refused.value.status == 413


@pytest.mark.parametrize("path", [CHAT.path, RESPONSES.path, MESSAGES.path, "/generate"])
@pytest.mark.parametrize("end", ["", '"}], "stop": "\\ud83d"}'])
def test_a_large_body_that_is_no_json_is_refused_as_such(path: str, end: str) -> None:
    """And not that its text is too large, after which an agent would leave out a part of its conversation."""
    body = json.dumps({"messages": [large(MESSAGES.image)]}).removesuffix('"}}]}') + end
    (endpoint,) = (one for one in contract.ENDPOINTS if one.path == path and one.method == "POST")
    with pytest.raises(contract.Refusal) as refused:
        contract.parse(endpoint, contract.Incoming(body.encode(), path, models=["m"]))
    assert refused.value.status == (422 if path == "/generate" else 400)
    assert "Invalid JSON: " in refused.value.message


def test_numbers_stay_as_they_were_sent() -> None:
    part = json.dumps(large(MESSAGES.image))
    for number in ("1e400", "NaN", "123456789012345678901234567890", "0.1"):
        body = without_media(f'{{"messages": [{part}], "temperature": {number}}}'.encode())
        assert json.loads(body)["temperature"] == pytest.approx(json.loads(number), nan_ok=True)
