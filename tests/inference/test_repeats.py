"""The tokens that would repeat an n-gram of a text are known, whatever its length."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from inference.scheduling.repeats import Repeats

TOKENS = st.lists(st.integers(0, 3), max_size=12)


def looked_up(size: int, text: Sequence[int]) -> list[int]:
    """The last tokens of all n-grams that begin as the text ends, found by looking at each."""
    newest = list(text[max(0, len(text) - size + 1) :])
    ngrams = [list(text[place : place + size]) for place in range(len(text) - size + 1)]
    return [ngram[-1] for ngram in ngrams if ngram[:-1] == newest]


@given(st.integers(1, 4), TOKENS, TOKENS)
def test_what_would_repeat_is_what_a_search_of_the_whole_text_finds(
    size: int, prompt_ids: list[int], output_ids: list[int]
) -> None:
    repeats = Repeats(size, prompt_ids)
    for end in range(len(output_ids) + 1):
        assert list(repeats.after(output_ids[:end])) == looked_up(size, prompt_ids + output_ids[:end])


@given(st.integers(1, 4), TOKENS, TOKENS)
def test_several_tokens_at_once_are_the_same(size: int, prompt_ids: list[int], output_ids: list[int]) -> None:
    assert list(Repeats(size, prompt_ids).after(output_ids)) == looked_up(size, prompt_ids + output_ids)
