"""How much of a prompt goes into a step that streams wait for follows from step times; here the times are made up."""

import pytest

from inference.scheduling.prefill_budget import (
    LEAST_ENOUGH,
    MAX_SLOWDOWN,
    MIN_TOKENS,
    READINGS,
    REFRESH_AFTER,
    PrefillBudget,
)

MOST = 128


def measured(usual: float, per_token: float, streams: int = 8) -> PrefillBudget:
    """A budget after steps of so many streams that took `usual` seconds, and `per_token` more for each prompt token."""
    budget = PrefillBudget()
    for _ in range(20):
        budget.record_step(streams, 0, usual)
        budget.record_step(streams, 64, usual + 64 * per_token)
    return budget


def test_before_anything_was_timed_a_prompt_gets_all_that_it_may() -> None:
    budget = PrefillBudget()
    assert budget.tokens(8, MOST) == MOST
    budget.record_step(0, 512, 9.0)  # no stream waited
    assert budget.tokens(8, MOST) == MOST


def test_a_prompt_whose_tokens_cost_little_gets_all_that_it_may() -> None:
    assert measured(usual=0.030, per_token=0.0001).tokens(8, MOST) == MOST


@pytest.mark.parametrize("per_token", [0.0005, 0.0007, 0.001])
def test_a_step_with_a_prompt_takes_at_most_so_many_times_as_long_as_one_without(per_token: float) -> None:
    usual = 0.030
    tokens = measured(usual, per_token).tokens(8, MOST)
    assert usual + tokens * per_token <= MAX_SLOWDOWN * usual
    assert usual + (tokens + 2) * per_token > MAX_SLOWDOWN * usual, "it could have had more"


def test_a_prompt_moves_on_however_long_its_tokens_take() -> None:
    assert measured(usual=0.001, per_token=1.0).tokens(8, MOST) == MIN_TOKENS
    assert measured(usual=0.001, per_token=1.0).tokens(8, 5) == 5, "and never gets more than it may"


def test_the_deeper_in_its_text_a_prompt_is_the_less_of_it_a_step_takes() -> None:
    budget, found = measured(usual=0.030, per_token=0.0005), []
    for number in range(5):
        tokens = budget.tokens(8, MOST)
        found.append(tokens)
        budget.record_step(8, tokens, 0.030 + tokens * 0.0005 * (1 + number))
    assert found == sorted(found, reverse=True)
    assert found[-1] < found[0]


def test_the_last_few_tokens_of_a_prompt_tell_nothing() -> None:
    budget = measured(usual=0.030, per_token=0.0005)
    before = budget.tokens(8, MOST)
    for seconds in (0.090, 0.001):
        budget.record_step(8, 1, seconds)
        assert budget.tokens(8, MOST) == before


def test_streams_whose_texts_grow_do_not_starve_a_prompt_that_comes_behind_another() -> None:
    budget, usual, per_token, found = measured(usual=0.007, per_token=0.0003), 0.016, 0.0003, []
    for _ in range(20 * REFRESH_AFTER):  # steps take more than twice as long by now, and every one has a prompt waiting
        tokens = budget.tokens(8, MOST)
        found.append(tokens)
        budget.record_step(8, tokens, usual + tokens * per_token)
    assert 0 in found[: REFRESH_AFTER + 1], "one step goes without, to see"
    assert found.count(0) <= len(found) / REFRESH_AFTER + 1
    assert found[-2] > 2 * found[1], "and what it showed is what the budget goes by"


def test_more_streams_take_longer_and_that_is_not_the_prompts_fault() -> None:
    budget = measured(usual=0.030, per_token=0.0005, streams=1)
    for _ in range(20):  # fifteen streams have joined; no step without a prompt has shown yet what they cost
        budget.record_step(16, 64, 0.030 + (15 + 64) * 0.0005)
    assert budget.tokens(16, MOST) >= measured(usual=0.030, per_token=0.0005).tokens(8, MOST)


def test_a_budget_goes_by_the_mean_number_of_streams_where_it_changes_from_step_to_step() -> None:
    usual, per_token, mean = 0.030, 0.0005, 33
    budget = measured(usual, per_token, streams=mean)
    expected = budget.tokens(mean, MOST)
    for streams in (65, 1) * 20:
        budget.record_step(streams, 0, usual + (streams - mean) * per_token)
    assert budget.tokens(mean, MOST) == pytest.approx(expected, abs=1)


def test_before_a_step_without_prompts_was_timed_no_number_of_prompt_tokens_is_enough() -> None:
    budget = PrefillBudget()
    assert budget.enough(512) == 512
    budget.record_step(0, 512, 9.0)
    assert budget.enough(512) == 512


def test_prompt_tokens_are_enough_if_reading_the_weights_takes_a_small_part_of_their_time() -> None:
    reading, per_token = 0.020, 0.0005
    enough = measured(usual=reading + 8 * per_token, per_token=per_token).enough(512)
    assert enough * per_token == pytest.approx(READINGS * reading, rel=0.02)


def test_where_tokens_take_long_a_few_are_enough() -> None:
    assert measured(usual=0.030, per_token=0.003).enough(512) == LEAST_ENOUGH
    assert measured(usual=0.030, per_token=0.003).enough(5) == 5, "and never more than there may be"


def test_a_cost_that_has_become_next_to_nothing_is_no_error() -> None:
    """After one very slow step without a prompt, as when the machine slept, prompts seem to cost nothing."""
    budget = PrefillBudget()
    budget.record_step(1, 0, 10.0)
    budget.record_step(1, 128, 11.0)
    for _ in range(1200):
        budget.record_step(0, 128, 0.01)
        assert budget.enough(512) == 512
        assert budget.tokens(1, MOST) in (0, MOST)
