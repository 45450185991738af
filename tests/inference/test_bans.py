"""What a model's files forbid at some places is forbidden there, and nowhere else."""

import pytest

from inference.scheduling.bans import Bans, ModelBans

END, FIRST = 7, 8
TEXT = [1, 2, 3, 4]


def banned(model: ModelBans, prompt_ids: list[int], output_ids: list[int], min_tokens: int = 0) -> list[int]:
    return list(Bans(model, prompt_ids, [END], min_tokens).after(output_ids) or ())


@pytest.mark.parametrize("of_prompt", range(1, len(TEXT) + 1))
@pytest.mark.parametrize("length", range(1, len(TEXT) + 1))
def test_a_bad_word_may_begin_anywhere_in_the_prompt_or_in_the_answer(of_prompt: int, length: int) -> None:
    model = ModelBans.of(words=[(*TEXT[-length:], 9), (5, *TEXT[1 - length :], 10)])
    assert banned(model, TEXT[:of_prompt], TEXT[of_prompt:]) == [9]


def test_a_prompt_that_is_shorter_than_a_bad_word_bans_nothing() -> None:
    assert banned(ModelBans.of(words=[(*TEXT, 9)]), TEXT[1:], []) == []


def test_what_must_not_begin_an_answer_may_follow() -> None:
    assert banned(ModelBans.of([FIRST]), TEXT, []) == [FIRST]
    assert banned(ModelBans.of([FIRST]), TEXT, [5]) == []


@pytest.mark.parametrize(("made", "expected"), [(1, [END]), (2, [])])
def test_an_answer_does_not_end_before_its_fewest_tokens(made: int, expected: list[int]) -> None:
    assert banned(ModelBans(), TEXT, [5] * made, min_tokens=2) == expected


def test_a_fewest_length_counts_the_prompt() -> None:
    model = ModelBans(min_new_tokens=2, min_length=10)
    assert [model.min_tokens(prompt_tokens) for prompt_tokens in (3, 9, 20)] == [7, 2, 2]
