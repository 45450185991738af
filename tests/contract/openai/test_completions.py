"""`POST /v1/completions`: bodies as requests to the engine, and events as answers."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interface.events import Failed, Logprobs, PromptEcho, Token, TokenLogprob
from interface.requests import Grammar, TextPrompt, TokenPrompt
from tests.support.answer_parts import TEXTS
from tests.support.asgi_client import events_of
from tests.support.openai_answers import (
    ACCEPTED,
    FINISHED,
    chunks,
    interleaved,
    parse,
    refused,
    streamed,
    tokens,
    whole,
)

PATH = "/v1/completions"


def logprob(text: str, value: float | None, *others: tuple[str, float]) -> Logprobs:
    top = tuple(TokenLogprob(0, other, other.encode(), logprob) for other, logprob in others)
    return Logprobs(TokenLogprob(1, text, text.encode(), value), top)


def scored(*tokens: Logprobs) -> list[Any]:
    """Tokens with log probabilities, and the end."""
    made = [
        Token(logprobs.chosen.token, 1, 1.0, number == 0, logprobs=logprobs) for number, logprobs in enumerate(tokens)
    ]
    return [*made, FINISHED]


# --- What is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("x", [TextPrompt("x")]),
        (["x", "y"], [TextPrompt("x"), TextPrompt("y")]),
        ([1, 2], [TokenPrompt([1, 2])]),
        ([[1], [2, 3]], [TokenPrompt([1]), TokenPrompt([2, 3])]),
    ],
)
def test_a_prompt_has_four_forms(prompt: Any, prompts: list[Any]) -> None:
    call = parse(PATH, prompt=prompt)
    assert [request.prompt for request in call.requests] == prompts
    assert [request.index for request in call.requests] == list(range(len(prompts)))


@pytest.mark.parametrize("prompt", [1, True, [], [[]], [-1], [[1], []], [[1], -1], [True], [1.5], {}, [None], None])
def test_any_other_prompt_is_refused(prompt: Any) -> None:
    assert refused(PATH, prompt=prompt)["param"] == "prompt"


def test_choices_are_numbered_prompt_by_prompt_and_have_seeds_of_their_own() -> None:
    call = parse(PATH, prompt=["x", "y"], n=2, seed=2**63 - 1)
    assert [(request.prompt.text, request.index) for request in call.requests] == [
        ("x", 0),
        ("x", 1),
        ("y", 2),
        ("y", 3),
    ]
    assert [request.params.seed for request in call.requests] == [2**63 - 1, -(2**63)] * 2


def test_absent_and_null_fields_take_the_apis_defaults() -> None:
    names = ("max_tokens", "temperature", "stop", "seed", "logprobs", "n", "echo", "stream", "presence_penalty", "user")
    for body in ({}, dict.fromkeys(names)):
        (request,) = parse(PATH, prompt="x", **body).requests
        assert request.params.max_tokens == 16
        assert request.params.presence_penalty == 0
        assert (request.params.stop, request.params.seed, request.params.logprobs) == (None, None, None)
        assert request.default_temperature == 1.0
        assert request.clamp_max_tokens
        assert not request.echo


def test_the_length_has_the_name_of_chat_completions_too() -> None:
    (request,) = parse(PATH, prompt="x", max_completion_tokens=50).requests
    assert request.params.max_tokens == 50
    (request,) = parse(PATH, prompt="x", max_tokens=4, max_completion_tokens=5).requests
    assert request.params.max_tokens == 5


def test_every_sampling_parameter_reaches_the_engine() -> None:
    fields = {
        "max_tokens": 5,
        "min_tokens": 2,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0.1,
        "presence_penalty": 1,
        "frequency_penalty": -1.5,
        "repetition_penalty": 1.2,
        "seed": 7,
        "stop": ["a"],
        "stop_token_ids": [4],
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "ignore_eos": True,
        "logprobs": 3,
    }
    (request,) = parse(PATH, prompt="x", logit_bias={"5": -100, "6": 2.5}, **fields).requests
    assert request.params.model_dump(include=set(fields)) == fields
    assert request.params.logit_bias == {5: -100, 6: 2.5}
    assert parse(PATH, prompt="x", top_k=-1).requests[0].params.top_k == 0


@pytest.mark.parametrize(("path", "prompt"), [(PATH, "prompt"), ("/v1/responses", "input")])
def test_a_top_p_of_zero_keeps_only_the_most_likely_token(path: str, prompt: str) -> None:
    (request,) = parse(path, **{prompt: "x"}, top_p=0).requests
    assert 0 < request.params.top_p < 1e-6
    assert refused(path, **{prompt: "x"}, top_p=-0.1)["param"] == "top_p"


@pytest.mark.parametrize(("path", "prompt"), [(PATH, "prompt"), ("/v1/responses", "input")])
def test_there_may_be_more_stop_strings_than_openai_takes(path: str, prompt: str) -> None:
    strings = [f"<{number}>" for number in range(64)]
    (request,) = parse(path, **{prompt: "x"}, stop=strings).requests
    assert request.params.stop == strings
    assert parse(path, **{prompt: "x"}, stop="a").requests[0].params.stop == ["a"]
    assert refused(path, **{prompt: "x"}, stop=[*strings, "a"])["param"] == "stop"


def test_far_too_many_choices_are_refused_before_any_is_made() -> None:
    assert len(parse(PATH, prompt=["x"] * 32, n=128).requests) == 32 * 128
    assert refused(PATH, prompt=["x"] * 33, n=128)["param"] == "n"


def test_unknown_fields_and_harmless_ones_are_ignored() -> None:
    parse(PATH, prompt="x", nonsense=1, user="me", metadata={}, store=True, best_of=1, suffix="", service_tier="auto")
    parse(PATH, prompt="x", bad_words=[], use_beam_search=False, prompt_logprobs=None, truncate_prompt_tokens=None)
    parse(PATH, prompt="x", tools=[], logits_processors=[])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("suffix", "end"),
        ("best_of", 2),
        ("guided_json", 1),
        ("guided_json", "{"),
        ("guided_choice", []),
        ("grammar", {"root": "a"}),
        ("bad_words", ["a"]),
        ("allowed_token_ids", [1]),
        ("use_beam_search", True),
        ("use_beam_search", 0),
        ("truncate_prompt_tokens", 5),
        ("prompt_logprobs", 1),
        ("prompt_embeds", "AAAA"),
        ("max_output_tokens", 5),
        ("messages", []),
        ("tools", [{"type": "function", "function": {"name": "now"}}]),
        ("logits_processors", ["a.b"]),
        ("n", 0),
        ("n", 129),
        ("temperature", 2.1),
        ("top_k", -2),
        ("max_tokens", 0),
        ("max_tokens", "5"),
        ("logprobs", 21),
        ("logprobs", True),
        ("stop", [5]),
        ("stream_options", {"include_usage": True}),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(field: str, value: Any) -> None:
    error = refused(PATH, prompt="x", **{field: value})
    assert error["param"].partition(".")[0] == field
    assert field in error["message"]


def test_a_bias_of_an_unknown_token_is_refused() -> None:
    for key in ("x", "-1", "1.5", "", "٣", "9" * 19, "9" * 5000):
        error = refused(PATH, prompt="x", logit_bias={key: 1})
        assert error["param"].startswith("logit_bias")
        assert "sys." not in error["message"]


def test_a_grammar_is_passed_on() -> None:
    (request,) = parse(PATH, prompt="x", structured_outputs={"regex": "[0-9]+"}).requests
    assert request.grammar == Grammar("regex", "[0-9]+")


def test_an_echo_with_log_probabilities_asks_for_the_prompts() -> None:
    for body, echo, scores in (
        ({"echo": True}, True, False),
        ({"echo": True, "logprobs": 0}, True, True),
        ({"logprobs": 1}, False, False),
    ):
        (request,) = parse(PATH, prompt="x", **body).requests
        assert (request.echo, request.prompt_logprobs) == (echo, scores)


# --- What is answered -------------------------------------------------------------------------------------------------


def test_an_answer_has_its_choice_and_its_usage() -> None:
    answer = whole(parse(PATH, prompt="x"), tokens(["Hi", "", " you"]))
    assert (answer["id"][:5], answer["object"], answer["model"]) == ("cmpl-", "text_completion", "a-model")
    assert answer["choices"] == [{"index": 0, "text": "Hi you", "logprobs": None, "finish_reason": "stop"}]
    assert answer["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 3,
        "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_a_stream_has_one_chunk_per_text_and_one_to_end() -> None:
    stream = chunks(parse(PATH, prompt="x", stream=True), tokens(["Hi", "", " you"]))
    assert [chunk["choices"][0]["text"] for chunk in stream] == ["Hi", " you", ""]
    assert [chunk["choices"][0]["finish_reason"] for chunk in stream] == [None, None, "stop"]
    assert len({(chunk["id"], chunk["created"]) for chunk in stream}) == 1
    assert not any("usage" in chunk for chunk in stream)


def test_the_usage_comes_last_and_without_choices() -> None:
    call = parse(PATH, prompt=["x", "y"], n=2, stream=True, stream_options={"include_usage": True})
    finished = [replace(FINISHED, index=index, cached_tokens=index) for index in range(4)]
    *others, last = chunks(call, finished)
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == 6, "a prompt counts once"
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] == 0 + 2
    assert last["usage"]["completion_tokens"] == 8
    assert all(chunk["choices"] and "usage" not in chunk for chunk in others)


def test_a_stream_that_fails_says_so_before_done() -> None:
    call = parse(PATH, prompt="x", stream=True, stream_options={"include_usage": True})
    *_, last = chunks(call, [Token("Hi", 1, 1.0, True), Failed("why", "engine_error")])
    assert last["error"]["message"] == "why"


@pytest.mark.parametrize(("kind", "status"), [("engine_error", 500), ("shutdown", 503), ("unusable_grammar", 400)])
def test_a_whole_answer_that_fails_is_an_error_status(kind: Any, status: int) -> None:
    answer = parse(PATH, prompt="x").answer(ACCEPTED, [Failed("why", kind)])
    assert answer.status == status


def test_a_choice_says_why_it_ended() -> None:
    cases: list[tuple[Any, Any]] = [("length", None), ("stop", "END"), ("stop", 7)]
    for reason, stop in cases:
        finished = replace(FINISHED, finish_reason=reason, stop_reason=stop)
        (choice,) = whole(parse(PATH, prompt="x"), [finished])["choices"]
        assert (choice["finish_reason"], choice.get("stop_reason")) == (reason, stop)


def test_log_probabilities_are_four_lists() -> None:
    events = scored(logprob("a", -0.5, ("a", -0.5), ("b", -1.0)), logprob("c", float("-inf"), ("d", -0.1)))
    (choice,) = whole(parse(PATH, prompt="x", logprobs=2), events)["choices"]
    assert choice["logprobs"] == {
        "tokens": ["a", "c"],
        "token_logprobs": [-0.5, -9999.0],
        "top_logprobs": [{"a": -0.5, "b": -1.0}, {"d": -0.1, "c": -9999.0}],
        "text_offset": [0, 1],
    }


def test_tokens_with_one_text_share_an_entry_and_the_more_likely_counts() -> None:
    events = scored(logprob("a", -3.0, ("a", -0.5)))
    (choice,) = whole(parse(PATH, prompt="x", logprobs=1), events)["choices"]
    assert choice["logprobs"]["top_logprobs"] == [{"a": -0.5}]


def test_half_a_character_has_the_offset_of_the_whole() -> None:
    parts = [TokenLogprob(1, "?", piece, -1.0) for piece in (b"a", b"\xf0\x9f", b"\x98\x80", "é".encode(), b"z")]
    events = scored(*map(Logprobs, parts))
    (choice,) = whole(parse(PATH, prompt="x", logprobs=0), events)["choices"]
    assert choice["logprobs"]["text_offset"] == [0, 1, 1, 2, 3]


def test_a_token_whose_text_is_held_back_keeps_its_chunk_if_it_has_a_log_probability() -> None:
    held = Token("", 1, 1.0, True, logprobs=logprob("é", -1.0))
    stream = chunks(parse(PATH, prompt="x", logprobs=0, stream=True), [held, FINISHED])
    assert stream[0]["choices"][0]["logprobs"]["tokens"] == ["é"]


def test_an_echo_begins_the_text_and_the_lists() -> None:
    echo = PromptEcho("ab", (logprob("a", None), logprob("b", -2.0, ("b", -2.0))))
    events = [echo, *scored(logprob("c", -1.0))]
    (choice,) = whole(parse(PATH, prompt="ab", echo=True, logprobs=1), events)["choices"]
    assert choice["text"] == "abc"
    assert choice["logprobs"] == {
        "tokens": ["a", "b", "c"],
        "token_logprobs": [None, -2.0, -1.0],
        "top_logprobs": [None, {"b": -2.0}, {"c": -1.0}],
        "text_offset": [0, 1, 2],
    }


def test_an_echo_has_log_probabilities_only_if_they_are_wanted() -> None:
    echo = PromptEcho("ab", (logprob("a", None), logprob("b", None)))
    (choice,) = whole(parse(PATH, prompt="ab", echo=True), [echo, *tokens(["c"])])["choices"]
    assert (choice["text"], choice["logprobs"]) == ("abc", None)


@pytest.mark.parametrize(
    ("text", "tokens", "offsets"),
    [
        ("Hello you", ["<s>", "Hello", " you"], [0, 0, 5, 9]),
        ("Hello you", ["<s>", " Hello", " you"], [0, 0, 5, 9]),
        ("é<s>b", ["é", "<s>", "b", "</s>"], [0, 1, 4, 5, 5]),
        ("ÀB", ["a", "b"], [0, 1, 2]),
    ],
)
def test_tokens_that_are_not_in_the_prompts_text_move_no_offset(
    text: str, tokens: list[str], offsets: list[int]
) -> None:
    call = parse(PATH, prompt=text, echo=True, logprobs=0)
    echo = PromptEcho(text, tuple(logprob(token, -1.0) for token in tokens))
    (choice,) = whole(call, [echo, *scored(logprob("!", -1.0))])["choices"]
    assert choice["logprobs"]["text_offset"] == offsets


def test_an_echo_without_tokens_is_the_prompt_alone() -> None:
    call = parse(PATH, prompt="ab", echo=True, max_tokens=0, logprobs=0)
    echo = PromptEcho("ab", (logprob("a", None), logprob("b", -2.0)))
    answer = whole(call, [echo, *scored(logprob("c", -1.0))])
    assert call.requests[0].params.max_tokens == 1
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"], choice["logprobs"]["tokens"]) == ("ab", "length", ["a", "b"])
    assert answer["usage"]["completion_tokens"] == 0


def test_token_ids_come_if_they_are_wanted() -> None:
    call = parse(PATH, prompt="x", return_token_ids=True)
    (choice,) = whole(call, [PromptEcho("x", (logprob("x", None),)), *tokens(["a", "b"])])["choices"]
    assert (choice["text"], choice["prompt_token_ids"], choice["token_ids"]) == ("ab", [1], [0, 1])


@given(st.data(), st.lists(st.lists(TEXTS, max_size=5), min_size=1, max_size=3))
def test_the_chunks_of_each_choice_join_to_its_whole_text(data: st.DataObject, texts: list[list[str]]) -> None:
    events = data.draw(interleaved([tokens(text, index) for index, text in enumerate(texts)]))
    call = parse(PATH, prompt="x", n=len(texts))
    choices = whole(call, events)["choices"]
    assert [choice["text"] for choice in choices] == ["".join(pieces) for pieces in texts]
    stream = events_of(streamed(call, events))
    for index, choice in enumerate(choices):
        pieces = [piece for chunk in stream for piece in chunk["choices"] if piece["index"] == index]
        assert "".join(piece["text"] for piece in pieces) == choice["text"]
        assert [piece["finish_reason"] for piece in pieces][-1] == choice["finish_reason"]
