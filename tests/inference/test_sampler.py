"""The sampler draws from exactly the distribution that a sequence asks for, whatever other rows are in the batch.

A sequence brings its own random number. Given n numbers spread evenly over [0, 1), each token must be drawn n times its
probability, but for one at each border: so the distribution is checked exactly, with no luck involved. Everything here
holds for both choosers, the one in torch and the one in C++.
"""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inference.sampling.choose import Chooser, NativeChooser
from inference.sampling.draw import LOOKS, choose
from inference.sampling.sampler import sample
from inference.scheduling.sample_args import SampleArgs

VOCABULARY = 40
DRAWS = 2000
LOGITS = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(1)) * 2


def args(temperature: float = 1.0, uniform: float = 0.5, **settings: Any) -> SampleArgs:
    return SampleArgs(temperature=temperature, uniform=uniform, **settings)


def brief(one: SampleArgs) -> str:
    """The settings that are not off, for the name of a test."""
    values = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
    return ",".join(f"{name}={values[name]}" for name in ("temperature", "min_p", "top_k", "top_p") if values[name])


def evenly_spread(one: SampleArgs, number: int) -> list[SampleArgs]:
    return [dataclasses.replace(one, uniform=(index + 0.5) / number) for index in range(number)]


def tokens(logits: Tensor, rows: Sequence[SampleArgs], chooser: Chooser) -> list[int]:
    """The tokens drawn from `logits` [rows, vocabulary], or from the same logits [vocabulary] in every row."""
    sampled = sample(logits.expand(len(rows), -1).clone(), rows, chooser)
    assert not sampled.broken
    return sampled.token_ids


def expected_probabilities(logits: Tensor, one: SampleArgs) -> list[float]:
    """The distribution by the book, in plain Python: temperature, min_p, then top_k, then top_p of what is left."""
    largest = max(logits.tolist())
    weights = [math.exp((logit - largest) / one.temperature) for logit in logits.tolist()]
    weights = [weight if weight >= one.min_p else 0.0 for weight in weights]
    most_likely = sorted(range(len(weights)), key=lambda token_id: -weights[token_id])
    kept = most_likely[: one.top_k or None]
    whole = sum(weights[token_id] for token_id in kept)
    mass, nucleus = 0.0, set()
    for token_id in kept:
        if one.top_p < 1 and mass >= one.top_p * whole:
            break
        nucleus.add(token_id)
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
        args(),
        args(temperature=0.3),
        args(temperature=2.0),
        args(top_k=1),
        args(top_k=7),
        args(top_p=0.5),
        args(top_p=0.99),
        args(temperature=1.7, top_k=11, top_p=0.8),
        args(top_k=VOCABULARY, top_p=0.999999),
        args(min_p=0.1),
        args(min_p=1.0),
        args(temperature=1.5, min_p=0.05, top_p=0.7),
        args(temperature=2.0, min_p=0.02, top_k=9, top_p=0.9),
    ],
    ids=brief,
)
def test_tokens_are_drawn_with_their_probabilities(one: SampleArgs, chooser: Chooser) -> None:
    token_ids = tokens(LOGITS, evenly_spread(one, DRAWS), chooser)
    assert_drawn_as_expected(token_ids, expected_probabilities(LOGITS, one))


@pytest.mark.parametrize("temperature", [0.0, 1e-6, 1e-300])
def test_temperature_0_takes_the_most_likely_token(temperature: float, chooser: Chooser) -> None:
    rows = evenly_spread(args(temperature=temperature, top_p=0.9, top_k=3), 50)
    assert set(tokens(LOGITS, rows, chooser)) == {int(LOGITS.argmax())}


def test_of_equal_logits_greedy_takes_the_lowest_id(chooser: Chooser) -> None:
    logits = torch.zeros(3000)
    logits[[17, 1300, 2999]] = 5.0
    assert tokens(logits, [args(temperature=0)], chooser) == [17]


def test_a_temperature_near_0_is_nearly_greedy_and_overflows_nothing(chooser: Chooser) -> None:
    rows = evenly_spread(args(temperature=2e-5), 50)
    assert set(tokens(LOGITS * 1e4, rows, chooser)) == {int(LOGITS.argmax())}


@pytest.mark.parametrize("top_p", [5e-324, 1e-9])
def test_the_smallest_top_p_keeps_one_token(top_p: float, chooser: Chooser) -> None:
    rows = evenly_spread(args(temperature=2.0, top_p=top_p), 50)
    assert set(tokens(LOGITS, rows, chooser)) == {int(LOGITS.argmax())}


@pytest.mark.parametrize("top_k", [VOCABULARY, VOCABULARY + 1, 10**30])
def test_a_top_k_larger_than_the_vocabulary_is_none(top_k: int, chooser: Chooser) -> None:
    token_ids = tokens(LOGITS, evenly_spread(args(top_k=top_k), DRAWS), chooser)
    assert_drawn_as_expected(token_ids, expected_probabilities(LOGITS, args()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_in_half_precision_are_drawn_in_full(dtype: torch.dtype, chooser: Chooser) -> None:
    logits = LOGITS.to(dtype)
    one = args(temperature=0.8, top_p=0.95, top_k=30)
    token_ids = tokens(logits, evenly_spread(one, DRAWS), chooser)
    assert_drawn_as_expected(token_ids, expected_probabilities(logits.double(), one))


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_banned_tokens_are_not_drawn_even_at_the_ends_of_the_range(uniform: float, chooser: Chooser) -> None:
    logits = torch.full((VOCABULARY,), float("-inf"))
    logits[7], logits[9] = 1.0, 1.5
    for truncation in ({}, {"top_k": 5}, {"top_p": 0.99}, {"min_p": 0.1}):
        assert tokens(logits, [args(uniform=uniform, **truncation)], chooser) == [7 if uniform == 0 else 9]


@pytest.mark.parametrize("truncation", [{}, {"top_p": 0.9999}], ids=str)
def test_a_sum_that_is_rounded_differently_draws_no_token_of_next_to_no_probability(
    truncation: dict[str, float], chooser: Chooser
) -> None:
    logits = torch.randn(1, 5120, generator=torch.Generator().manual_seed(5)).clamp(-3)
    logits[0].view(5, 1024)[:, -40:] = -60.0  # the last of every thousand
    ends = torch.softmax(logits[0].double(), 0).cumsum(0)[1023::1024].clamp(max=1 - 2**-53)
    rows = [args(uniform=float(end) * (1 - step * 2e-9), **truncation) for end in ends for step in range(40)]
    drawn = tokens(logits.expand(len(rows), -1), rows, chooser)
    assert not [token for token in drawn if logits[0, token] == -60.0]


def test_of_equal_logits_the_lower_ids_are_kept(chooser: Chooser) -> None:
    assert Counter(tokens(torch.zeros(VOCABULARY), evenly_spread(args(top_k=3), 30), chooser)) == {0: 10, 1: 10, 2: 10}
    halves = Counter(tokens(torch.zeros(VOCABULARY), evenly_spread(args(top_p=0.5), VOCABULARY), chooser))
    assert halves == dict.fromkeys(range(VOCABULARY // 2), 2)


LARGE_VOCABULARY = 5000
PEAKED, FLAT = (torch.randn(LARGE_VOCABULARY, generator=torch.Generator().manual_seed(3)) * width for width in (5, 0.1))
LARGER = torch.randn(20_000, generator=torch.Generator().manual_seed(6))
LARGE = {
    "peaked": PEAKED,
    "flat": FLAT,
    "larger and peaked": 5 * LARGER,
    "larger and flat": 0.1 * LARGER,
    "one token and many that are hardly likely": (0.1 * LARGER - 12).index_fill(0, torch.tensor(9), 0.0),
    # C++ looks at some of a large vocabulary first, sixteen of every 256, and must not be misled.
    "the first 16 of every 256 are less likely": 0.1 * LARGER - 5.0 * (torch.arange(20_000) % 256 < 16),
}


@pytest.mark.parametrize("logits", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize(
    "one",
    [
        args(),
        args(top_p=0.9),
        args(top_p=0.99),
        args(top_k=300, top_p=0.5),
        args(top_k=4500, top_p=0.95),
        args(min_p=0.6),
    ],
    ids=brief,
)
def test_in_a_large_vocabulary_as_many_tokens_are_kept_as_must_be(
    logits: Tensor, one: SampleArgs, chooser: Chooser
) -> None:
    assert max(LOOKS) < LARGE_VOCABULARY
    expected = expected_probabilities(logits.double(), one)
    # Numbers in the middle of a token's share draw that token; the ends of the range draw the first and the last.
    ends = list(itertools.accumulate(expected))
    token_ids = [token_id for token_id, probability in enumerate(expected) if probability > 1e-6]
    chosen = [*token_ids[:30], *token_ids[-30:]]
    rows = [dataclasses.replace(one, uniform=ends[token_id] - expected[token_id] / 2) for token_id in chosen]
    assert tokens(logits, rows, chooser) == chosen
    possible = [token_id for token_id, probability in enumerate(expected) if probability > 0]
    ends_of_the_range = tokens(logits, [dataclasses.replace(one, uniform=u) for u in (0.0, 1 - 2**-53)], chooser)
    if one == args():  # the very smallest probabilities are less than a random number can tell apart
        assert set(ends_of_the_range) <= set(possible)
    else:
        assert ends_of_the_range == [possible[0], possible[-1]]


@pytest.mark.parametrize(
    ("vocabulary", "chooser"), [(5_000, "torch"), (49_152, "native"), (151_936, "native")], indirect=["chooser"]
)
def test_random_numbers_draw_from_a_large_vocabulary_with_its_probabilities(vocabulary: int, chooser: Chooser) -> None:
    """Chi-square of 4,000 draws over the kept tokens: below the value that 1 in 10,000 true draws would exceed."""
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(4)) * 4
    one = args(temperature=0.8, top_p=0.9, top_k=40)
    weights = ((logits - logits.max()).double() / one.temperature).exp()
    kept = [int(token_id) for token_id in weights.topk(one.top_k).indices]
    order = sorted(kept, key=lambda token_id: -float(weights[token_id]))
    mass = list(itertools.accumulate(float(weights[token_id]) for token_id in order))
    nucleus = [token_id for token_id, before in zip(order, [0.0, *mass], strict=False) if before < 0.9 * mass[-1]]
    whole = sum(float(weights[token_id]) for token_id in nucleus)
    generator, counts, draws = torch.Generator().manual_seed(5), Counter[int](), 4000
    for _ in range(draws // 50):
        rows = [dataclasses.replace(one, uniform=u) for u in torch.rand(50, generator=generator).tolist()]
        counts.update(tokens(logits, rows, chooser))
    assert set(counts) <= set(nucleus)
    expected = {token_id: draws * float(weights[token_id]) / whole for token_id in nucleus}
    chi_square = sum((counts[token_id] - expected[token_id]) ** 2 / expected[token_id] for token_id in nucleus)
    freedom = len(nucleus) - 1
    assert freedom > 3
    assert chi_square < freedom * (1 - 2 / (9 * freedom) + 3.72 * math.sqrt(2 / (9 * freedom))) ** 3


SETTINGS = st.builds(
    SampleArgs,
    temperature=st.sampled_from([0.0, 0.1, 0.7, 1.0, 2.0]) | st.floats(0, 2),
    top_p=st.sampled_from([1.0, 0.9, 0.1]) | st.floats(0, 1, exclude_min=True),
    top_k=st.sampled_from([0, 1, 5]) | st.integers(0, 2**70),
    min_p=st.sampled_from([0.0, 0.1]) | st.floats(0, 1),
    uniform=st.floats(0, 1, exclude_max=True),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(one=SETTINGS, seed=st.integers(0, 99), width=st.sampled_from([0.01, 1.0, 8.0]), size=st.integers(1, 3000))
def test_both_choosers_draw_from_the_same_distribution(
    native_chooser: NativeChooser, one: SampleArgs, seed: int, width: float, size: int
) -> None:
    logits = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * width
    rows = evenly_spread(one, 200)
    in_torch, in_cpp = (Counter(tokens(logits, rows, chooser)) for chooser in (choose, native_chooser))
    # Sums are rounded differently, so a number on a border may draw the token on either side of it.
    assert all(abs(in_torch[token_id] - in_cpp[token_id]) <= 1 for token_id in in_torch | in_cpp)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(one=SETTINGS, neighbours=st.lists(SETTINGS, max_size=4), place=st.integers(0, 4), seed=st.integers(0, 99))
def test_neighbours_of_any_settings_change_nothing(
    one: SampleArgs, neighbours: list[SampleArgs], place: int, seed: int, chooser: Chooser
) -> None:
    logits = torch.randn(len(neighbours) + 1, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3
    place = min(place, len(neighbours))
    together = sample(logits.clone(), [*neighbours[:place], one, *neighbours[place:]], chooser).token_ids
    assert all(0 <= token_id < VOCABULARY for token_id in together)
    assert together[place] == sample(logits[place : place + 1].clone(), [one], chooser).token_ids[0]


def test_a_neighbour_for_whom_all_of_a_large_vocabulary_is_sorted_changes_nothing(chooser: Chooser) -> None:
    level = torch.zeros(LARGE_VOCABULARY)  # all are equally likely, so the lower ids are kept
    rows = [args(top_k=10, uniform=0.99), args(top_p=0.999, uniform=0.99), args(top_k=5, top_p=0.5, uniform=0.99)]
    together = tokens(torch.stack([level, FLAT, PEAKED]), rows, chooser)
    alone = [tokens(logits, [row], chooser)[0] for logits, row in zip((level, FLAT, PEAKED), rows, strict=True)]
    assert together == alone
    assert together[0] == 9
