"""How much of a prompt goes into a step that streams wait for: as much as the clock allows, on a made-up clock."""

import pytest

from inference.scheduling.prefill_budget import LEAST, SLOWEST, STALE, Pace

MOST = 128


def paced(usual: float, per_token: float, streams: int = 8) -> Pace:
    """A pace at which steps of so many streams took `usual` seconds, and a prompt's token `per_token` more."""
    pace = Pace()
    for _ in range(20):
        pace.took(streams, 0, usual)
        pace.took(streams, 64, usual + 64 * per_token)
    return pace


def test_before_anything_was_timed_a_prompt_gets_all_that_it_may() -> None:
    pace = Pace()
    assert pace.prompt_tokens(8, MOST) == MOST
    pace.took(0, 512, 9.0)  # nobody waited
    assert pace.prompt_tokens(8, MOST) == MOST


def test_a_prompt_whose_tokens_cost_little_gets_all_that_it_may() -> None:
    assert paced(usual=0.030, per_token=0.0001).prompt_tokens(8, MOST) == MOST


@pytest.mark.parametrize("per_token", [0.0005, 0.0007, 0.001])
def test_a_step_with_a_prompt_takes_at_most_so_many_times_as_long_as_one_without(per_token: float) -> None:
    usual = 0.030
    tokens = paced(usual, per_token).prompt_tokens(8, MOST)
    assert usual + tokens * per_token <= SLOWEST * usual
    assert usual + (tokens + 2) * per_token > SLOWEST * usual, "it could have had more"


def test_a_prompt_moves_on_however_long_its_tokens_take() -> None:
    assert paced(usual=0.001, per_token=1.0).prompt_tokens(8, MOST) == LEAST
    assert paced(usual=0.001, per_token=1.0).prompt_tokens(8, 5) == 5, "and never gets more than it may"


def test_the_deeper_in_its_text_a_prompt_is_the_less_of_it_a_step_takes() -> None:
    pace, found = paced(usual=0.030, per_token=0.0005), []
    for number in range(5):
        tokens = pace.prompt_tokens(8, MOST)
        found.append(tokens)
        pace.took(8, tokens, 0.030 + tokens * 0.0005 * (1 + number))
    assert found == sorted(found, reverse=True)
    assert found[-1] < found[0]


def test_the_last_few_tokens_of_a_prompt_tell_nothing() -> None:
    pace = paced(usual=0.030, per_token=0.0005)
    before = pace.prompt_tokens(8, MOST)
    for seconds in (0.090, 0.001):
        pace.took(8, 1, seconds)
        assert pace.prompt_tokens(8, MOST) == before


def test_streams_whose_texts_grow_do_not_starve_a_prompt_that_comes_behind_another() -> None:
    pace, usual, per_token, found = paced(usual=0.007, per_token=0.0003), 0.016, 0.0003, []
    for _ in range(20 * STALE):  # steps take more than twice as long by now, and every one has a prompt waiting
        tokens = pace.prompt_tokens(8, MOST)
        found.append(tokens)
        pace.took(8, tokens, usual + tokens * per_token)
    assert 0 in found[: STALE + 1], "one step goes without, to see"
    assert found.count(0) <= len(found) / STALE + 1
    assert found[-2] > 2 * found[1], "and what it showed is what the budget goes by"


def test_more_streams_take_longer_and_that_is_not_the_prompts_fault() -> None:
    pace = paced(usual=0.030, per_token=0.0005, streams=1)
    for _ in range(20):  # fifteen streams have joined; no step without a prompt has shown yet what they cost
        pace.took(16, 64, 0.030 + (15 + 64) * 0.0005)
    assert pace.prompt_tokens(16, MOST) >= paced(usual=0.030, per_token=0.0005).prompt_tokens(8, MOST)
