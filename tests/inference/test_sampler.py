"""The sampler draws from exactly the distribution that a request asks for, whoever shares the batch.

A request brings its own random number. Given n numbers spread evenly over [0, 1), each token must be drawn n times its
probability, but for one at each border: so the distribution is checked exactly, with no luck involved.
"""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inference.sampler import LOOKS, Draw, sample

VOCABULARY = 40
DRAWS = 2000
LOGITS = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(1)) * 2


def draw(temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, uniform: float = 0.5) -> Draw:
    return Draw(temperature, top_p, top_k, uniform)


def evenly_spread(one: Draw, number: int) -> list[Draw]:
    return [dataclasses.replace(one, uniform=(index + 0.5) / number) for index in range(number)]


def expected_probabilities(logits: Tensor, one: Draw) -> list[float]:
    """The distribution by the book, in plain Python: temperature, then top_k, then top_p of what is left."""
    weights = [math.exp((logit - max(logits.tolist())) / one.temperature) for logit in logits.tolist()]
    likeliest = sorted(range(len(weights)), key=lambda token_id: -weights[token_id])
    kept = likeliest[: one.top_k or None]
    mass, nucleus = 0.0, []
    for token_id in kept:
        if one.top_p < 1 and mass >= one.top_p * sum(weights[token_id] for token_id in kept):
            break
        nucleus.append(token_id)
        mass += weights[token_id]
    return [weights[token_id] / mass if token_id in nucleus else 0.0 for token_id in range(len(weights))]


def assert_drawn_as_expected(token_ids: Sequence[int], probabilities: Sequence[float]) -> None:
    counts = Counter(token_ids)
    for token_id, probability in enumerate(probabilities):
        assert abs(counts[token_id] - probability * len(token_ids)) <= 1.001
        if probability == 0:
            assert counts[token_id] == 0


@pytest.mark.parametrize(
    "one",
    [
        draw(),
        draw(temperature=0.3),
        draw(temperature=2.0),
        draw(top_k=1),
        draw(top_k=7),
        draw(top_p=0.5),
        draw(top_p=0.99),
        draw(temperature=1.7, top_k=11, top_p=0.8),
        draw(top_k=VOCABULARY, top_p=0.999999),
    ],
    ids=str,
)
def test_tokens_are_drawn_with_their_probabilities(one: Draw) -> None:
    token_ids = sample(LOGITS.expand(DRAWS, -1), evenly_spread(one, DRAWS))
    assert_drawn_as_expected(token_ids, expected_probabilities(LOGITS, one))


@pytest.mark.parametrize("temperature", [0.0, 1e-6, 1e-300])
def test_temperature_0_takes_the_likeliest_token(temperature: float) -> None:
    draws = evenly_spread(draw(temperature=temperature, top_p=0.9, top_k=3), 50)
    assert set(sample(LOGITS.expand(50, -1), draws)) == {int(LOGITS.argmax())}


def test_a_temperature_near_0_is_nearly_greedy_and_overflows_nothing() -> None:
    draws = evenly_spread(draw(temperature=2e-5), 50)
    assert set(sample((LOGITS * 1e4).expand(50, -1), draws)) == {int(LOGITS.argmax())}


@pytest.mark.parametrize("top_p", [5e-324, 1e-9])
def test_the_smallest_top_p_keeps_one_token(top_p: float) -> None:
    draws = evenly_spread(draw(temperature=2.0, top_p=top_p), 50)
    assert set(sample(LOGITS.expand(50, -1), draws)) == {int(LOGITS.argmax())}


@pytest.mark.parametrize("top_k", [VOCABULARY, VOCABULARY + 1, 10**30])
def test_a_top_k_larger_than_the_vocabulary_is_none(top_k: int) -> None:
    token_ids = sample(LOGITS.expand(DRAWS, -1), evenly_spread(draw(top_k=top_k), DRAWS))
    assert_drawn_as_expected(token_ids, expected_probabilities(LOGITS, draw()))


def test_every_row_is_drawn_as_if_it_were_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(60, VOCABULARY, generator=generator)
    choices = [(0.0, 1.0, 0), (1.0, 1.0, 0), (0.5, 0.7, 0), (1.5, 1.0, 4), (2.0, 0.9, 6)]
    draws = [Draw(*choices[row % len(choices)], uniform=float(torch.rand(1, generator=generator))) for row in range(60)]
    assert sample(logits, draws) == [sample(logits[row : row + 1], draws[row : row + 1])[0] for row in range(60)]


SETTINGS = st.builds(
    Draw,
    temperature=st.sampled_from([0.0, 0.1, 0.7, 1.0, 2.0]) | st.floats(0, 2),
    top_p=st.sampled_from([1.0, 0.9, 0.1]) | st.floats(0, 1, exclude_min=True),
    top_k=st.sampled_from([0, 1, 5]) | st.integers(0, 2**70),
    uniform=st.floats(0, 1, exclude_max=True),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(one=SETTINGS, neighbours=st.lists(SETTINGS, max_size=4), place=st.integers(0, 4), seed=st.integers(0, 99))
def test_neighbours_of_any_settings_change_nothing(one: Draw, neighbours: list[Draw], place: int, seed: int) -> None:
    logits = torch.randn(len(neighbours) + 1, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3
    place = min(place, len(neighbours))
    together = sample(logits, [*neighbours[:place], one, *neighbours[place:]])
    assert all(0 <= token_id < VOCABULARY for token_id in together)
    assert together[place] == sample(logits[place : place + 1], [one])[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_in_half_precision_are_drawn_in_full(dtype: torch.dtype) -> None:
    logits = LOGITS.to(dtype)
    one = draw(temperature=0.8, top_p=0.95, top_k=30)
    token_ids = sample(logits.expand(DRAWS, -1), evenly_spread(one, DRAWS))
    assert_drawn_as_expected(token_ids, expected_probabilities(logits.double(), one))


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_tokens_that_cannot_come_do_not_even_at_the_ends_of_the_range(uniform: float) -> None:
    logits = torch.full((1, VOCABULARY), float("-inf"))
    logits[0, 7], logits[0, 9] = 1.0, 1.5
    for one in (draw(uniform=uniform), draw(top_k=5, uniform=uniform), draw(top_p=0.99, uniform=uniform)):
        assert sample(logits, [one])[0] == (7 if uniform == 0 else 9)


def test_of_equal_logits_the_lower_ids_are_kept() -> None:
    draws = evenly_spread(draw(top_k=3), 30)
    assert Counter(sample(torch.zeros(30, VOCABULARY), draws)) == {0: 10, 1: 10, 2: 10}


LARGE_VOCABULARY = 5000
PEAKED, FLAT = (torch.randn(LARGE_VOCABULARY, generator=torch.Generator().manual_seed(3)) * width for width in (5, 0.1))


@pytest.mark.parametrize("logits", [PEAKED, FLAT], ids=["peaked", "flat"])
@pytest.mark.parametrize(
    "one", [draw(top_p=0.9), draw(top_p=0.99), draw(top_k=300, top_p=0.5), draw(top_k=4500, top_p=0.95)], ids=str
)
def test_in_a_large_vocabulary_the_likeliest_tokens_are_as_many_as_they_must_be(logits: Tensor, one: Draw) -> None:
    assert max(LOOKS) < LARGE_VOCABULARY
    expected = expected_probabilities(logits.double(), one)
    # Numbers in the middle of a token's share draw that token; the ends of the range draw the first and the last.
    ends = list(itertools.accumulate(expected))
    token_ids = [token_id for token_id, probability in enumerate(expected) if probability > 0]
    chosen = [*token_ids[:30], *token_ids[-30:]]
    draws = [dataclasses.replace(one, uniform=ends[token_id] - expected[token_id] / 2) for token_id in chosen]
    assert sample(logits.expand(len(draws), -1), draws) == chosen
    assert sample(logits.expand(2, -1), [dataclasses.replace(one, uniform=u) for u in (0.0, 1 - 2**-53)]) == [
        token_ids[0],
        token_ids[-1],
    ]


def test_a_neighbour_for_whom_all_of_a_large_vocabulary_is_sorted_changes_nothing() -> None:
    level = torch.zeros(LARGE_VOCABULARY)  # all are equally likely, so the lower ids are kept
    draws = [draw(top_k=10, uniform=0.99), draw(top_p=0.999, uniform=0.99), draw(top_k=5, top_p=0.5, uniform=0.99)]
    together = sample(torch.stack([level, FLAT, PEAKED]), draws)
    assert together == [sample(row[None], [one])[0] for row, one in zip((level, FLAT, PEAKED), draws, strict=True)]
    assert together[0] == 9
