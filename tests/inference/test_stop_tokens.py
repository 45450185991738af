"""What ends a text besides max_tokens (stop strings, stop tokens, special tokens), and its finish reason."""

import dataclasses
import re
from typing import Any

import pytest

from inference.text.output_text import OutputText
from interface.errors import RequestError
from interface.events import Finished
from interface.requests import Grammar, SamplingParams, text_request
from tests.support.tiny_models import (
    SPECIAL_TOKENS,
    Inbox,
    byte_tokenizer,
    decode,
    reference,
    run_until_idle,
    submit,
    syllable_tokenizer,
    tiny_engine,
)

PROMPT = "a prompt"
LENGTH = 24
EXPECTED = reference("llama", PROMPT, LENGTH, syllable_tokenizer)
EOS, MARK = SPECIAL_TOKENS.index("<eos>"), SPECIAL_TOKENS.index("<mark>")


def run(eos_ids: tuple[int, ...] = (), **settings: Any) -> tuple[list[int], str, Finished]:
    """The ids, the text and the end of one greedy answer."""
    engine, inbox = tiny_engine(tokenizer=syllable_tokenizer(), eos_ids=eos_ids, max_streams=1), Inbox()
    sequence_id = submit(engine, inbox, PROMPT, **{"max_tokens": LENGTH, "temperature": 0, **settings})
    run_until_idle(engine)
    end = inbox.end(sequence_id)
    assert isinstance(end, Finished)
    return inbox.token_ids(sequence_id), inbox.text(sequence_id), end


def text_of(token_ids: list[int]) -> str:
    return decode(syllable_tokenizer(), token_ids)


def first_place() -> int:
    """A place in the answer whose token has a text and does not come before."""
    places = range(4, LENGTH)
    return next(
        at for at in places if text_of([EXPECTED[at]]) and text_of([EXPECTED[at]]) not in text_of(EXPECTED[:at])
    )


AT = first_place()


def test_a_stop_token_ends_the_text_and_is_the_reason() -> None:
    token_ids, text, end = run(stop_token_ids=[EXPECTED[AT]])
    assert token_ids == EXPECTED[: AT + 1]
    assert text == text_of(EXPECTED[:AT])
    assert (end.finish_reason, end.stop_reason) == ("stop", EXPECTED[AT])


@pytest.mark.parametrize("are_stops_shown", [False, True])
def test_an_end_of_sequence_token_has_no_text_though_it_is_not_special_and_no_reason(are_stops_shown: bool) -> None:
    token_ids, text, end = run(eos_ids=(EXPECTED[AT],), include_stop_str_in_output=are_stops_shown)
    assert token_ids == EXPECTED[: AT + 1]
    assert text == text_of(EXPECTED[:AT])
    assert (end.finish_reason, end.stop_reason) == ("stop", None)


def test_a_stop_token_is_shown_if_that_is_asked_for() -> None:
    _, text, _ = run(stop_token_ids=[EXPECTED[AT]], include_stop_str_in_output=True)
    assert text == text_of(EXPECTED[: AT + 1])


def test_a_stop_string_is_the_reason_and_shown_if_that_is_asked_for() -> None:
    stop = text_of([EXPECTED[AT]])
    whole = text_of(EXPECTED)
    place = whole.index(stop)
    for is_included, expected in ((False, whole[:place]), (True, whole[: place + len(stop)])):
        _, text, end = run(stop=[stop, "never to be found"], include_stop_str_in_output=is_included)
        assert text == expected
        assert (end.finish_reason, end.stop_reason) == ("stop", stop)


def test_a_stop_string_that_is_a_special_token_stops() -> None:
    token_ids, text, end = run(stop=["<mark>"], logit_bias={MARK: 100.0})
    assert token_ids == [MARK]
    assert text == ""
    assert (end.finish_reason, end.stop_reason) == ("stop", "<mark>")


@pytest.mark.parametrize(
    ("stop", "pushed", "shown"),
    [
        ("ab<mark>", ["a", "b", MARK], ""),
        ("ab<mark>c", ["xa", "b", MARK, "cd"], "x"),
        ("<mark>\n", ["x", MARK, "\n"], "x"),
        ("<mark><mark>", ["x", MARK, "y", MARK, MARK], "xy"),
        ("<mark>\n", [MARK, "x", "\n", MARK], None),
        ("<eos>x<mark>", ["a", EOS, "x", MARK], "a"),
    ],
)
@pytest.mark.parametrize("is_included", [False, True])
def test_a_stop_string_may_have_special_tokens_in_it(
    stop: str, pushed: list[str | int], shown: str | None, is_included: bool
) -> None:
    pieces = {number: piece if isinstance(piece, str) else "" for number, piece in enumerate(pushed, start=1000)}
    ids = [piece if isinstance(piece, int) else number for number, piece in zip(pieces, pushed, strict=True)]
    params = SamplingParams(stop=[stop], include_stop_str_in_output=is_included)
    text = OutputText(
        lambda ids: "".join(pieces.get(token_id, "") for token_id in ids), {}, params, {EOS: "<eos>", MARK: "<mark>"}
    )
    answer = "".join([text.push(token_id) for token_id in ids] + [text.flush()])
    assert text.is_ended == (shown is not None)
    if shown is None:
        assert answer == "x\n", "all of the text, and nothing of the tokens"
    else:
        assert (answer, text.stop_reason) == (shown + stop * is_included, stop)


def test_a_special_token_in_a_stop_string_may_have_the_text_of_another_in_it() -> None:
    outer, inner = 1000, 1001
    params = SamplingParams(stop=["<|a<b>|>"])
    text = OutputText(lambda ids: "x" * len(ids), {}, params, {inner: "<b>", outer: "<|a<b>|>"})
    assert [text.push(token_id) for token_id in (5, inner, outer)] == ["x", "x", "x"]
    assert (text.is_ended, text.stop_reason) == (True, "<|a<b>|>")


@pytest.mark.parametrize("is_skipped", [True, False])
def test_special_tokens_are_left_out_unless_they_are_wanted(is_skipped: bool) -> None:
    token_ids, text, _ = run(skip_special_tokens=is_skipped, logit_bias={MARK: 100.0}, max_tokens=3)
    assert token_ids == [MARK] * 3
    assert text == ("" if is_skipped else "<mark>" * 3)


def test_ends_do_not_come_before_min_tokens() -> None:
    token_ids, _, end = run((EOS,), stop_token_ids=[MARK], min_tokens=5, logit_bias={EOS: 100.0, MARK: 50.0})
    assert len(token_ids) == 6
    assert not {EOS, MARK} & set(token_ids[:5])
    assert (token_ids[5], end.finish_reason) == (EOS, "stop")


def test_stop_strings_in_the_first_min_tokens_are_text() -> None:
    stop = text_of([EXPECTED[AT]])
    _, text, end = run(stop=stop, min_tokens=AT + 1, max_tokens=AT + 1)
    assert text == text_of(EXPECTED[: AT + 1])
    assert (end.finish_reason, end.stop_reason) == ("length", None)


def test_ignore_eos_goes_on_past_the_end_but_not_past_a_stop_token() -> None:
    token_ids, _, _ = run(eos_ids=(EXPECTED[AT],), ignore_eos=True)
    assert token_ids == EXPECTED
    token_ids, _, end = run(eos_ids=(EXPECTED[AT],), ignore_eos=True, stop_token_ids=[EXPECTED[AT]])
    assert (token_ids, end.stop_reason) == (EXPECTED[: AT + 1], EXPECTED[AT])


@pytest.mark.parametrize(
    ("param", "settings"), [("logit_bias", {"logit_bias": {320: 1.0}}), ("stop_token_ids", {"stop_token_ids": [320]})]
)
def test_a_token_id_that_the_model_does_not_know_is_refused_by_name(param: str, settings: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="expected token ids below 320, got 320") as refusal:
        run(**settings)
    assert refusal.value.param == param


@pytest.mark.parametrize("beyond", [-1, 320, 10**12])
def test_an_end_that_the_model_does_not_have_changes_nothing(beyond: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", "engine"):
        token_ids, _, end = run((beyond,), min_tokens=LENGTH, logit_bias={319: 0.0})
    assert (token_ids, end.finish_reason) == (EXPECTED, "length")
    assert f"EOS token {beyond} is not one of the model's" in caplog.text


def test_an_end_that_the_tokenizer_does_not_have_is_no_obstacle_to_a_grammar() -> None:
    engine, inbox = tiny_engine(tokenizer=byte_tokenizer(), eos_ids=(319,), max_streams=1), Inbox()
    request = dataclasses.replace(
        text_request(PROMPT, max_tokens=8, temperature=0), grammar=Grammar("regex", "[ab]{3}")
    )
    engine.submit(engine.encode([request]), inbox)
    run_until_idle(engine)
    assert re.fullmatch("[ab]{3}", inbox.text(request.sequence_id))


def test_a_stop_string_that_is_a_token_the_model_does_not_have_ends_nothing() -> None:
    tokenizer = syllable_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<extra {number}>" for number in range(200)]})
    engine, inbox = tiny_engine(tokenizer=tokenizer, max_streams=1), Inbox()
    beyond = next(token for token, token_id in tokenizer.get_added_vocab().items() if token_id > 320)
    sequence_id = submit(engine, inbox, PROMPT, LENGTH, temperature=0, stop=beyond, min_tokens=LENGTH)
    run_until_idle(engine)
    assert inbox.token_ids(sequence_id) == EXPECTED
