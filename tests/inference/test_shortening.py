"""A conversation that is too long loses its oldest messages, if its request allows that."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import Config
from inference.text.shortening import render_to_fit
from inference.text.templates import Rendered
from inference.text.text_side import TextSide
from inference.weights.text_only import load_text_side
from interface.errors import PromptTooLong, RequestError
from interface.requests import ChatPrompt, EncodedRequest, GenerationRequest, SamplingParams
from tests.support.smollm2 import smollm2_file

Message = Mapping[str, Any]
SYSTEM: Message = {"role": "system", "content": "Be kind."}
LONGEST = 400


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str, *calls: str) -> Message:
    made = [{"id": call_id, "type": "function", "function": {"name": "look", "arguments": {}}} for call_id in calls]
    return {"role": "assistant", "content": text} | ({"tool_calls": made} if made else {})


def result(call: str, text: str = "r") -> Message:
    return {"role": "tool", "tool_call_id": call, "content": text}


class Renderer:
    """Renders messages so that each of their characters is a token, and remembers the messages of each rendering."""

    def __init__(self, check: Callable[[Sequence[Message]], None] = lambda messages: None) -> None:
        self.check = check
        self.rendered: list[Sequence[Message]] = []

    def __call__(self, prompt: ChatPrompt) -> Rendered:
        self.check(prompt.messages)
        self.rendered.append(prompt.messages)
        length = length_of(prompt.messages)
        if length > LONGEST:
            raise PromptTooLong(length, 1, LONGEST, is_counted=False)
        return Rendered(range(length), str(len(self.rendered) - 1))

    def to_fit(self, messages: Sequence[Message], most_tokens: int) -> list[Message]:
        """The messages that stay."""
        rendered = render_to_fit(ChatPrompt(messages), most_tokens, self)
        return list(self.rendered[int(rendered.text)])


def length_of(messages: Sequence[Message]) -> int:
    return sum(len(message["content"]) for message in messages)


def expect_that_a_user_begins(messages: Sequence[Message]) -> None:
    if next(message for message in messages if message["role"] != "system")["role"] != "user":
        raise RequestError("Conversation roles must alternate user/assistant/user/assistant", "messages")


# --- What stays -------------------------------------------------------------------------------------------------------

CHAT = [SYSTEM, user("a" * 10), assistant("b" * 10), user("c" * 10), assistant("d" * 10), user("e" * 10)]


def test_a_conversation_that_fits_stays_whole() -> None:
    assert Renderer().to_fit(CHAT, length_of(CHAT)) == CHAT


@pytest.mark.parametrize(("room", "gone"), [(57, 1), (48, 1), (47, 2), (38, 2), (37, 3), (28, 3), (27, 4), (18, 4)])
def test_the_oldest_messages_go_and_no_more_than_have_to(room: int, gone: int) -> None:
    assert Renderer().to_fit(CHAT, room) == [SYSTEM, *CHAT[1 + gone :]]


def test_what_does_not_fit_without_all_others_is_left_to_be_refused() -> None:
    assert Renderer().to_fit(CHAT, 17) == [SYSTEM, CHAT[-1]]
    with pytest.raises(PromptTooLong):
        Renderer().to_fit([SYSTEM, user("hi"), user("x" * LONGEST)], 100)


def test_developer_messages_stay_wherever_they_are() -> None:
    developer = {"role": "developer", "content": "Now in French."}
    messages = [user("a" * 50), assistant("b" * 50), developer, user("c")]
    assert Renderer().to_fit(messages, 30) == [developer, user("c")]


def test_the_results_of_tools_go_with_their_calls() -> None:
    messages = [
        user("a" * 10),
        assistant("b" * 10, "1", "2"),
        result("1"),
        user("c" * 10),
        result("2"),
        assistant("d" * 10),
        user("e" * 10),
    ]
    assert Renderer().to_fit(messages, 42) == messages[1:]
    assert Renderer().to_fit(messages, 41) == [messages[3], *messages[5:]]


def test_the_same_id_may_come_again_in_a_later_turn() -> None:
    turn = [assistant("b" * 10, "call_0"), result("call_0", "r" * 10)]
    messages = [user("a"), *turn, *turn, user("e")]
    assert Renderer().to_fit(messages, 30) == [*turn, user("e")]


def test_an_agent_keeps_its_task_and_its_latest_calls() -> None:
    calls = [[assistant("b" * 10, str(n)), result(str(n), "r" * 10)] for n in range(20)]
    messages = [SYSTEM, user("Mend the bug."), *(message for turn in calls for message in turn)]
    expected = [SYSTEM, user("Mend the bug."), *calls[-3], *calls[-2], *calls[-1]]
    assert Renderer().to_fit(messages, length_of(expected)) == expected


def test_an_unanswered_call_goes_like_any_other_message() -> None:
    assert Renderer().to_fit([assistant("b" * 10, "1"), user("c")], 5) == [user("c")]


def test_a_template_that_expects_the_user_first_keeps_whole_turns() -> None:
    renderer = Renderer(expect_that_a_user_begins)
    assert renderer.to_fit(CHAT, 57) == [SYSTEM, *CHAT[3:]]
    assert renderer.to_fit(CHAT, 37) == [SYSTEM, CHAT[-1]]


def test_what_the_template_cannot_render_at_all_is_refused() -> None:
    with pytest.raises(RequestError, match="must alternate"):
        Renderer(expect_that_a_user_begins).to_fit([assistant("b" * 50), user("c")], 10)


def test_a_thousand_messages_take_a_few_renderings() -> None:
    """Each rendering may take as long as a whole request's."""
    renderer = Renderer()
    messages = [user("a" * 10), assistant("b" * 10)] * 5000 + [user("c")]
    assert length_of(renderer.to_fit(messages, 201)) == 201
    assert len(renderer.rendered) < 20
    assert max(length_of(rendered) for rendered in renderer.rendered[1:]) < 2 * LONGEST


@given(
    st.lists(
        st.one_of(
            st.just(SYSTEM),
            st.builds(user, st.text("a", max_size=30)),
            st.builds(assistant, st.text("b", max_size=30), st.sampled_from("12"), st.sampled_from("34")),
            st.builds(result, st.sampled_from("12345"), st.text("r", max_size=30)),
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 200),
)
def test_no_result_stays_without_its_call(messages: list[Message], room: int) -> None:
    numbered = [{**message, "place": place} for place, message in enumerate(messages)]
    stays = {message["place"] for message in Renderer().to_fit(numbered, room)}
    assert len(messages) - 1 in stays
    assert stays >= {place for place, message in enumerate(messages) if message["role"] == "system"}
    for place, message in enumerate(messages):
        if message["role"] == "tool" and place in stays:
            askers = [n for n in range(place) if any(c["id"] == message["tool_call_id"] for c in calls_of(messages[n]))]
            assert not askers or askers[-1] in stays
    if length_of(messages) <= room:
        assert len(stays) == len(messages)


def calls_of(message: Message) -> Sequence[Mapping[str, Any]]:
    calls: Sequence[Mapping[str, Any]] = message.get("tool_calls") or ()
    return calls


# --- A real model's template and tokenizer ----------------------------------------------------------------------------


@cache
def smollm2() -> TextSide:
    return load_text_side(Config(model=str(smollm2_file()), context=256))


def encoded(prompt: ChatPrompt, max_tokens: int | None = None) -> EncodedRequest:
    request = GenerationRequest(prompt, SamplingParams(max_tokens=max_tokens), clamp_max_tokens=True, fill_context=True)
    (one,) = smollm2().encode([request])
    return one


def text_of(prompt: ChatPrompt) -> str:
    return smollm2().detokenize(encoded(prompt).prompt_ids)


LONG = [
    {"role": "system", "content": "You are a librarian."},
    *(
        message
        for number in range(40)
        for message in (user(f"Which book is number {number}?"), assistant(f"Number {number} is about rivers."))
    ),
    user("And which one is next?"),
]


def test_smollm2_gets_its_system_message_and_the_latest_turns() -> None:
    with pytest.raises(PromptTooLong):
        encoded(ChatPrompt(LONG))
    text = text_of(ChatPrompt(LONG, leave_room=20))
    begin, end = "<|im_start|>system\nYou are a librarian.<|im_end|>\n", "And which one is next?<|im_end|>\n"
    assert text.startswith(begin)
    assert text.endswith(end + "<|im_start|>assistant\n")
    assert "Number 39 is about rivers." in text
    assert "number 0?" not in text


@pytest.mark.parametrize("room", [1, 20, 100, 128])
def test_the_room_for_the_answer_is_left_and_no_other_message_would_fit(room: int) -> None:
    one = encoded(ChatPrompt(LONG, leave_room=room), max_tokens=room)
    assert one.params.max_tokens == room
    kept = sum(smollm2().detokenize(one.prompt_ids).count(word) for word in ("Which book", "is about rivers"))
    longer = smollm2().prompts.render(ChatPrompt([LONG[0], *LONG[-2 - kept :]]))
    assert len(one.prompt_ids) <= 256 - room < len(longer.token_ids)


def test_half_of_the_context_is_room_enough() -> None:
    assert 100 < len(encoded(ChatPrompt(LONG, leave_room=100_000)).prompt_ids) <= 128


def test_one_message_that_is_too_long_is_refused_with_its_length() -> None:
    with pytest.raises(PromptTooLong, match=r"The prompt has \d{3} tokens"):
        encoded(ChatPrompt([user("Hi!"), assistant("Hello!"), user("word " * 300)], leave_room=10))
    with pytest.raises(PromptTooLong, match="at least"):
        encoded(ChatPrompt([user("Hi!"), user("word " * 10_000)], leave_room=10))
