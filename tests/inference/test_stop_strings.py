"""A text ends at its first stop string, wherever the token borders fall, and no part of the stop string is shown."""

from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inference.text.stop_strings import StopStrings
from tests.support.parsed_answers import cut
from tests.support.tiny_models import Inbox, decode, reference, run_until_idle, submit, syllable_tokenizer, tiny_engine

LETTERS = "ab😀"
"""Few, so that stop strings are met, overlap, and nearly happen."""
TEXTS = st.text(LETTERS, max_size=20)
STOPS = st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=4)
EXAMPLES = settings(max_examples=300, deadline=None, derandomize=True)


def expected_text(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """What is left of a text, and which stop string was met, by trying every place where one may end."""
    for end in range(len(text) + 1):
        begins = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if begins:
            return text[: min(begins)], text[min(begins) : end]
    return text, None


def run(pieces: Sequence[str], stops: Sequence[str]) -> tuple[list[str], str | None]:
    search = StopStrings(stops)
    return [search.push(piece) for piece in pieces] + [search.flush()], search.found


@EXAMPLES
@given(text=TEXTS, stops=STOPS, borders=st.lists(st.integers(0, 100), max_size=8))
@example(text="aab", stops=["ab"], borders=[1, 2])
@example(text="aba", stops=["abab", "b"], borders=[1, 2])
@example(text="ab", stops=["b", "ab"], borders=[])
def test_the_result_depends_on_the_text_and_not_on_its_pieces(text: str, stops: list[str], borders: list[int]) -> None:
    shown, found = run(cut(text, borders), stops)
    assert ("".join(shown), found) == expected_text(text, stops)


@EXAMPLES
@given(text=TEXTS, stops=STOPS)
def test_no_stop_string_is_ever_shown(text: str, stops: list[str]) -> None:
    shown, _ = run(list(text), stops)
    assert not any(stop in "".join(shown) for stop in stops)


@EXAMPLES
@given(text=TEXTS, stops=STOPS)
def test_only_what_may_become_a_stop_string_is_held_back(text: str, stops: list[str]) -> None:
    search, given_so_far = StopStrings(stops), ""
    for place, character in enumerate(text, 1):
        given_so_far += search.push(character)
        if search.found:
            break
        held = text[len(given_so_far) : place]
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


@EXAMPLES
@given(text=TEXTS, more=TEXTS, stops=STOPS)
def test_nothing_comes_after_a_stop_string(text: str, more: str, stops: list[str]) -> None:
    search = StopStrings(stops)
    search.push(text)
    if search.found:
        assert search.push(more) == ""
        assert search.flush() == ""


def test_of_two_that_overlap_the_one_that_is_complete_first_wins() -> None:
    assert run(["x", "abcd", "y"], ["bcd", "abc"]) == (["x", "", "", ""], "abc")
    assert run(list("xabcd"), ["bcd", "abc"])[0] == ["x", "", "", "", "", ""]


def test_what_was_held_back_in_vain_is_given_at_the_end() -> None:
    assert run(["one EN", "D", "IN", "G"], ["ENDED"]) == (["one ", "", "ENDIN", "G", ""], None)
    assert run(["one EN", "DE"], ["ENDED"]) == (["one ", "", "ENDE"], None)


def test_an_emoji_is_a_stop_string_like_any_other() -> None:
    assert run(["so ", "😀", "!"], ["😀"]) == (["so ", "", "", ""], "😀")
    assert run(["so ", "👨\u200d👩", "!"], ["👨\u200d👩\u200d👧"]) == (["so ", "", "👨\u200d👩!", ""], None)


# --- Through the engine -----------------------------------------------------------------------------------------------

PROMPT = "tell me"
LENGTH = 18


def full_output() -> list[int]:
    return reference("llama", PROMPT, LENGTH, syllable_tokenizer)


def full_text() -> str:
    return decode(syllable_tokenizer(), full_output())


@pytest.mark.parametrize("begin", [0, 3, 9])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_request_ends_at_its_stop_string(begin: int, length: int) -> None:
    stop = full_text()[begin : begin + length]
    engine, inbox = tiny_engine(tokenizer=syllable_tokenizer()), Inbox()
    sequence_id = submit(engine, inbox, PROMPT, max_tokens=LENGTH, temperature=0, stop=stop)
    run_until_idle(engine)
    assert inbox.text(sequence_id) == full_text()[: full_text().find(stop)]
    assert inbox.finish_reason(sequence_id) == "stop"
    token_ids = inbox.token_ids(sequence_id)
    assert token_ids == full_output()[: len(token_ids)]
    assert stop in decode(syllable_tokenizer(), token_ids)
    assert stop not in decode(syllable_tokenizer(), token_ids[:-1])


def test_a_stop_string_that_is_complete_with_the_last_token_is_still_a_stop() -> None:
    stop = full_text()[-3:]
    assert stop not in full_text()[:-1]
    engine, inbox = tiny_engine(tokenizer=syllable_tokenizer()), Inbox()
    sequence_id = submit(engine, inbox, PROMPT, max_tokens=LENGTH, temperature=0, stop=[stop])
    run_until_idle(engine)
    assert inbox.text(sequence_id) == full_text()[:-3]
    assert inbox.finish_reason(sequence_id) == "stop"


def test_the_beginning_of_a_stop_string_is_given_when_the_request_ends_before_its_end() -> None:
    stop = full_text()[-5:] + "never"  # the last token, and the end of the one before
    engine, inbox = tiny_engine(tokenizer=syllable_tokenizer()), Inbox()
    sequence_id = submit(engine, inbox, PROMPT, max_tokens=LENGTH, temperature=0, stop=[stop])
    run_until_idle(engine)
    assert inbox.text(sequence_id) == full_text()
    assert inbox.finish_reason(sequence_id) == "length"
    assert inbox.tokens(sequence_id)[-1].text == full_text()[-5:]
