"""Messages between the engine's process and its workers arrive as they were sent."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import wire
from backends.replies import WrongSettings
from contract.generate import GenerateBody
from interface import errors
from interface.engine import Counters, ModelInfo, Tally, Tokenized
from interface.events import (
    Event,
    Failed,
    Finished,
    Logprobs,
    PromptEcho,
    TextPart,
    Token,
    TokenLogprob,
    ToolCallPart,
)
from interface.requests import ChatPrompt, GenerationRequest, Grammar, SamplingParams, TextPrompt, TokenPrompt

HALF = TokenLogprob(7, "�", b"\xf0\x9f", -math.inf)
LOGPROBS = Logprobs(HALF, (HALF, TokenLogprob(8, "b", b"b", None)))
EVENTS: list[Event] = [
    PromptEcho("a prompt", (LOGPROBS,), 1),
    Token("text", 5, 1.25, True),
    Token("", 0, 0.1, False, 3, LOGPROBS, (TextPart("reasoning", "so"), ToolCallPart("add", "{}"))),
    Token('\u2028\0"é😀', 1, 2.0, False, parts=()),
    Finished("stop", 1, 2, 3.0, 4.0, 5.0, 6, 7, "END"),
    Finished("length", 1, 2, 3.0, 4.0, 5.0, stop_reason=42),
    Failed("why", "shutdown", 2),
]
MESSAGES: list[Any] = [
    wire.Hello(1, {"model": "a", "context": None, "step_limit": 1.5, "compile": True}, Tally({"a:b": 2.0})),
    wire.Welcome(ModelInfo(4096, 1000, {"tokenizer_class": "X", "bos_token": None}), "a-name"),
    wire.Abort(2**40),
    wire.Tokenize(ChatPrompt([{"role": "user", "content": [{"type": "text", "text": "hi"}]}], tools=[{"a": {}}])),
    wire.Detokenize([1, 2]),
    wire.Keep({"a name": b'{"a": "\xc3\xa9"}', "é": b""}),
    wire.Keep({"a name": b"1"}, "another"),
    wire.Recall("a name"),
    wire.Find("a "),
    wire.Drop("a name"),
    wire.Counted(Tally({"a:1": 1.5}, 3)),
    wire.Refused("QueueFull", "no room", {}),
    wire.Accepted([1, 2]),
    wire.TokenIds(Tokenized([1, 2], ["a", "b"])),
    wire.Text("text"),
    wire.Piece(b"\0\xff"),
    wire.Piece(None),
    wire.Pieces({"b": b"\xff", "a": b""}),
    wire.Done(True),
    wire.Events(list(enumerate(EVENTS))),
    wire.Pulse(Counters(1, 2, 3, 4, 5.5, 6)),
    wire.Totals(Tally({"a:1": 1.5}, 3), Tally()),
    wire.Outage(None),
    wire.Farewell("why"),
]


def arrived(message: Any, number: int = 0) -> Any:
    frame = wire.pack(message, number)
    length, kind, found_number = wire.HEADER.unpack_from(frame)
    assert (found_number, length) == (number, len(frame) - wire.HEADER.size)
    return wire.unpack(kind, number, frame[wire.HEADER.size :])


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was_sent(message: Any) -> None:
    assert arrived(message, 5) == message


def test_every_kind_of_message_is_tried() -> None:
    assert {type(message) for message in MESSAGES} | {wire.Submit} == set(wire.Message.__args__)


def test_requests_arrive_with_everything_that_is_asked_for() -> None:
    params = SamplingParams(logit_bias={5: -1.5}, stop=["a", "b"], seed=-(2**63), temperature=0.0, logprobs=3)
    requests = [
        GenerationRequest(
            TextPrompt("a", add_special_tokens=False), params, Grammar("regex", "a+", "guided_regex"), 1, echo=True
        ),
        GenerationRequest(TokenPrompt([1, 2]), SamplingParams(), clamp_max_tokens=True, default_temperature=1.0),
        GenerationRequest(ChatPrompt([{"role": "user", "content": "x"}], named_tool="add"), parse_response=True),
    ]
    there = arrived(wire.Submit.of(requests)).to_requests()
    assert there == requests
    assert there[0].grammar.param == "guided_regex"


def test_choices_share_their_prompt_at_the_other_side_too() -> None:
    """What they share is tokenized once, and sent once."""
    prompt = TextPrompt("x" * 100_000)
    submit = wire.Submit.of([GenerationRequest(prompt, index=index) for index in range(8)])
    assert len(wire.pack(submit)) < 110_000
    first, *others = arrived(submit).to_requests()
    assert all(request.prompt is first.prompt for request in others)


def test_a_doors_own_fields_are_not_sent() -> None:
    """A body of POST /generate is a kind of SamplingParams, with fields that no engine knows."""
    body = GenerateBody(prompt="a", stream=True, max_tokens=3)
    (request,) = arrived(wire.Submit.of([GenerationRequest(TextPrompt("a"), body)])).to_requests()
    assert type(request.params) is SamplingParams
    assert request.params == SamplingParams(max_tokens=3)


@given(st.text(), st.integers(0, 2**62), st.floats(0, 1e9))
def test_any_text_arrives(text: str, token_id: int, ms: float) -> None:
    events = wire.Events([(1, Token(text, token_id, ms, False))])
    assert arrived(events) == events


RAISED = [
    errors.PromptTooLong(5, 6, 7, is_counted=False),
    errors.UnusablePrompt("no template", "messages"),
    errors.UnsupportedFeature("no grammar"),
    errors.QueueFull("no room"),
    errors.EngineUnavailable("not now"),
    errors.EngineFailed("never again"),
    errors.LoadError("no such model"),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_an_error_is_raised_at_the_other_side_as_it_was_here(error: Exception) -> None:
    there = arrived(wire.Refused.of(error)).to_error()
    assert type(there) is type(error)
    assert str(there) == str(error)
    assert vars(there) == vars(error)


def test_an_error_of_a_kind_that_only_a_backend_knows_is_raised_as_the_kind_that_it_is_one_of() -> None:
    there = arrived(wire.Refused.of(WrongSettings("another key"))).to_error()
    assert type(there) is errors.EngineUnavailable
    assert str(there) == "another key"


def test_an_error_that_is_not_for_clients_is_a_mistake_of_the_service() -> None:
    there = arrived(wire.Refused.of(ZeroDivisionError("a secret"))).to_error()
    assert type(there) is RuntimeError


@pytest.mark.parametrize(
    ("kind", "body"), [(10, b"{"), (10, b"\xff"), (10, b"[]"), (0, b'{"protocol": "x"}'), (99, b"")]
)
def test_an_error_in_a_body_names_the_request(kind: int, body: bytes) -> None:
    with pytest.raises(wire.Malformed) as caught:
        wire.unpack(kind, 77, body)
    assert caught.value.number == 77
