"""Masks, biases, penalties and log probabilities affect their own row as they should, and no other."""

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inference.sampling.adjustments import NEGATIVE_INFINITY, adjust
from inference.sampling.choose import Chooser, NativeChooser
from inference.sampling.logprobs import find_top
from inference.sampling.sampler import sample
from inference.scheduling.sample_args import LogitBias, SampleArgs, TokenCounts

VOCABULARY = 70
LOGITS = torch.randn(6, VOCABULARY, generator=torch.Generator().manual_seed(1)) * 3


def seen(prompt_ids: Sequence[int], output_ids: Sequence[int]) -> TokenCounts:
    counts = TokenCounts(prompt_ids)
    for token_id in output_ids:
        counts.add(token_id)
    return counts


def mask_of(allowed: Sequence[int], vocabulary: int = VOCABULARY) -> Any:
    words = np.zeros(-(-vocabulary // 32), np.uint32)
    for token_id in allowed:
        words[token_id // 32] |= np.uint32(1 << (token_id % 32))
    return words.view(np.int32)


def adjusted(*rows: SampleArgs) -> Tensor:
    logits = LOGITS[: len(rows)].clone()
    adjust(logits, rows)
    return logits


def changed(before: Tensor, after: Tensor) -> set[int]:
    return set((before != after).nonzero().flatten().tolist())


# --- Penalties --------------------------------------------------------------------------------------------------------


def test_presence_and_frequency_are_subtracted_for_generated_tokens_only() -> None:
    row = SampleArgs(presence_penalty=0.5, frequency_penalty=0.25, seen=seen([1, 2], [2, 2, 5]))
    after = adjusted(row)[0]
    assert changed(LOGITS[0], after) == {2, 5}
    assert after[2].item() == pytest.approx(LOGITS[0, 2].item() - 0.5 - 2 * 0.25)
    assert after[5].item() == pytest.approx(LOGITS[0, 5].item() - 0.5 - 0.25)


def test_a_repetition_penalty_brings_prompt_and_generated_tokens_towards_unlikely() -> None:
    after = adjusted(SampleArgs(repetition_penalty=1.5, seen=seen([1, 2, 1], [5])))[0]
    assert changed(LOGITS[0], after) == {1, 2, 5}
    for token_id in (1, 2, 5):
        before = LOGITS[0, token_id].item()
        assert after[token_id].item() == pytest.approx(before / 1.5 if before > 0 else before * 1.5)


def test_all_penalties_together_are_applied_in_the_order_that_is_documented() -> None:
    penalties = {"repetition_penalty": 2.0, "presence_penalty": 0.5, "frequency_penalty": 1.0}
    after = adjusted(SampleArgs(**penalties, seen=seen([7], [7, 7])))[0]  # type: ignore[arg-type]
    before = LOGITS[0, 7].item()
    assert after[7].item() == pytest.approx((before / 2 if before > 0 else before * 2) - 0.5 - 2.0)


def test_counting_a_token_costs_the_same_however_many_there_are() -> None:
    counts = seen(range(100_000), [99_999, 3, 3, 100_001])
    assert len(counts.ids) == 100_001
    assert [counts.counts[counts.ids.index(token_id)] for token_id in (99_999, 3, 4, 100_001)] == [1, 2, 0, 1]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(prompt=st.lists(st.integers(0, 9)), output=st.lists(st.integers(0, 9)))
def test_token_counts_are_those_of_counting_by_hand(prompt: list[int], output: list[int]) -> None:
    counts = seen(prompt, output)
    expected = {token_id: output.count(token_id) for token_id in {*prompt, *output}}
    assert dict(zip(counts.ids, counts.counts, strict=True)) == expected


# --- Biases, bans and masks -------------------------------------------------------------------------------------------


def test_a_bias_is_added_and_minus_100_bans() -> None:
    after = adjusted(SampleArgs(bias=LogitBias({3: 2.5, 4: -100, 60: 100})))[0]
    assert changed(LOGITS[0], after) == {3, 4, 60}
    assert after[3].item() == pytest.approx(LOGITS[0, 3].item() + 2.5)
    assert after[4].item() == float("-inf")


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_a_bias_of_100_forces_a_token_and_minus_100_bans_even_the_most_likely(
    temperature: float, chooser: Chooser
) -> None:
    best = int(LOGITS[0].argmax())
    for uniform in (0.001, 0.5, 0.999):
        forced = SampleArgs(temperature, uniform=uniform, bias=LogitBias({9: 100}))
        banned = SampleArgs(temperature, uniform=uniform, bias=LogitBias({best: -100}))
        token_ids = sample(torch.stack([LOGITS[0], LOGITS[0] * 100]), [forced, banned], chooser).token_ids
        assert token_ids[0] == 9
        assert token_ids[1] != best


def test_banned_tokens_do_not_come(chooser: Chooser) -> None:
    order = LOGITS[0].argsort(descending=True).tolist()
    row = SampleArgs(banned_ids=array("q", order[:3]))
    assert sample(LOGITS[:1].clone(), [row], chooser).token_ids == [order[3]]


@pytest.mark.parametrize("allowed", [[0], [31, 32], [69], list(range(0, 70, 3))], ids=str)
def test_a_mask_allows_its_tokens_and_no_others(allowed: list[int], chooser: Chooser) -> None:
    rows = [SampleArgs(2.0, uniform=(number + 0.5) / 200, mask=mask_of(allowed)) for number in range(200)]
    token_ids = set(sample((LOGITS[0] * 0.1).expand(200, -1).clone(), rows, chooser).token_ids)
    assert token_ids == set(allowed)


def test_a_forced_token_that_the_mask_forbids_does_not_come(chooser: Chooser) -> None:
    row = SampleArgs(bias=LogitBias({9: 100}), mask=mask_of([4, 5]))
    assert sample(LOGITS[:1].clone(), [row], chooser).token_ids[0] in (4, 5)


# --- Log probabilities ------------------------------------------------------------------------------------------------


def test_logprobs_are_those_of_the_raw_logits_whatever_changes_the_choice(chooser: Chooser) -> None:
    row = SampleArgs(1.5, uniform=0.3, top_k=5, bias=LogitBias({9: 100}), mask=mask_of([9]), logprobs=4)
    sampled = sample(LOGITS[:1].clone(), [row], chooser)
    raw = LOGITS[0].log_softmax(-1)
    assert sampled.token_ids == [9]
    assert sampled.logprobs[0].chosen == pytest.approx(raw[9].item(), abs=1e-5)
    ids, logprobs = zip(*sampled.logprobs[0].top, strict=True)
    assert list(ids) == raw.argsort(descending=True)[:4].tolist()
    assert logprobs == pytest.approx(raw.sort(descending=True).values[:4].tolist(), abs=1e-5)


def test_the_chosen_token_has_the_same_number_in_both_places(chooser: Chooser) -> None:
    for row in range(6):
        report = sample(LOGITS[row : row + 1].clone(), [SampleArgs(logprobs=1)], chooser).logprobs[0]
        assert report.top[0][1] == report.chosen


def test_only_rows_that_ask_get_logprobs_and_as_many_as_they_ask_for() -> None:
    rows = [SampleArgs(), SampleArgs(logprobs=0), SampleArgs(logprobs=20), SampleArgs(logprobs=2), SampleArgs()]
    reports = sample(LOGITS[:5].clone(), rows).logprobs
    assert {row: len(report.top) for row, report in reports.items()} == {1: 0, 2: 20, 3: 2}


def test_more_logprobs_than_tokens_are_all_of_them() -> None:
    assert len(sample(torch.zeros(1, 3), [SampleArgs(logprobs=20)]).logprobs[0].top) == 3


@pytest.mark.parametrize("size", [3, 70, 128, 1000, 1024])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_largest_numbers_are_those_of_topk_wherever_they_lie(size: int, count: int) -> None:
    numbers = torch.randn(6, size, generator=torch.Generator().manual_seed(size))
    numbers[4] = NEGATIVE_INFINITY
    numbers[5, -3:] = 9.0  # equal ones, at the end
    values, places = find_top(numbers, count)
    assert torch.equal(values, numbers.topk(count).values)
    assert torch.equal(numbers.gather(-1, places), values)
    assert all(len(set(row)) == count for row in places.tolist())


@pytest.mark.parametrize("size", [1, 3, 15, 16, 70, 1000, 49_153])
@pytest.mark.parametrize("count", [0, 1, 20])
def test_in_cpp_log_probabilities_are_made_of_the_same_numbers(
    size: int, count: int, native_chooser: NativeChooser
) -> None:
    logits = torch.randn(5, size, generator=torch.Generator().manual_seed(size)) * 4
    logits[1] = logits[1].round()  # many are equal: the lower ids come first
    logits[2], logits[2, 0] = NEGATIVE_INFINITY, 7.0
    logits[3] -= 3000
    logits[4, -1] = float("nan")
    normalizers, top, ids = native_chooser.top_logits(logits, min(count, size))
    ordered = logits[:4].sort(dim=-1, descending=True, stable=True)
    assert torch.equal(top[:4], ordered.values[:, :count])
    assert torch.equal(ids[:4], ordered.indices[:, :count])
    logprobs = logits[:4] - normalizers[:4, :1] - normalizers[:4, 1:]
    assert torch.allclose(logprobs, logits[:4].double().log_softmax(-1).float(), atol=2e-6, rtol=1e-6)
    assert normalizers[4].isnan().all()


# --- Rows are apart ---------------------------------------------------------------------------------------------------

FEATURES: list[SampleArgs] = [
    SampleArgs(),
    SampleArgs(0.7, uniform=0.31),
    SampleArgs(0.7, 0.9, uniform=0.63, logprobs=3),
    SampleArgs(1.2, uniform=0.2, frequency_penalty=1.0, seen=seen([], [4, 4, 9, 60])),
    SampleArgs(1.2, uniform=0.8, repetition_penalty=1.3, seen=seen(range(30), [4, 4, 9, 60])),
    SampleArgs(0.9, uniform=0.5, mask=mask_of(range(0, VOCABULARY, 2)), logprobs=20),
    SampleArgs(1.9, uniform=0.7, bias=LogitBias({8: 4.0, 9: -100})),
    SampleArgs(1.5, min_p=0.05, top_k=30, uniform=0.9, banned_ids=array("q", [1, 2, 3])),
]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(rows=st.lists(st.sampled_from(range(len(FEATURES))), min_size=1, max_size=6), broken=st.sets(st.integers(0, 5)))
def test_a_row_is_the_same_to_the_bit_whatever_its_neighbours_use(
    rows: list[int], broken: set[int], chooser: Chooser
) -> None:
    logits = LOGITS[: len(rows)].clone()
    for row in broken & set(range(len(rows))):
        logits[row, row * 7] = float("nan")
    together = sample(logits.clone(), [FEATURES[number] for number in rows], chooser)
    for row, number in enumerate(rows):
        alone = sample(logits[row : row + 1].clone(), [FEATURES[number]], chooser)
        assert together.token_ids[row] == alone.token_ids[0]
        assert together.logprobs.get(row) == alone.logprobs.get(0)
        assert (row in together.broken) == (0 in alone.broken) == (row in broken)


@pytest.mark.parametrize("vocabulary", [49_152, 151_936])
def test_rows_are_independent_in_a_large_vocabulary_too(vocabulary: int, chooser: Chooser) -> None:
    """Large enough that torch would share one row's sum among threads, but not sixteen rows'."""
    logits = torch.randn(8, vocabulary, generator=torch.Generator().manual_seed(2)) * 3
    mask = mask_of(range(0, vocabulary, 2), vocabulary)
    rows = [SampleArgs(0.7, 0.9, uniform=0.3, logprobs=5), SampleArgs(1.0, uniform=0.6), SampleArgs(1.0, mask=mask)]
    rows += [SampleArgs(0.9, top_k=40, uniform=0.77, seen=seen([], [5, 7]), presence_penalty=1.0), SampleArgs()]
    rows += [SampleArgs(1.0, min_p=0.01, uniform=0.2, logprobs=20), *rows[:2]]
    together = sample(logits.clone(), rows, chooser)
    for row, args in enumerate(rows):
        alone = sample(logits[row : row + 1].clone(), [args], chooser)
        assert alone.token_ids[0] == together.token_ids[row]
        assert alone.logprobs.get(0) == together.logprobs.get(row)


# --- Broken rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("feature", range(len(FEATURES)))
def test_a_broken_row_is_reported_and_nothing_is_raised(value: float, feature: int, chooser: Chooser) -> None:
    logits = LOGITS[:3].clone()
    logits[1] = value
    sampled = sample(logits, [SampleArgs(), FEATURES[feature], SampleArgs(0.7, 0.9, uniform=0.5, logprobs=1)], chooser)
    assert sampled.broken == {1}
    assert 1 not in sampled.logprobs
    assert set(sampled.logprobs) == {2}
    assert sampled.token_ids[0] == int(LOGITS[0].argmax())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 17, VOCABULARY - 1])
def test_one_nan_breaks_a_row_even_at_a_banned_token(value: float, place: int, chooser: Chooser) -> None:
    logits = LOGITS[:3].clone()
    logits[:, place] = value
    allowed = mask_of([token_id for token_id in range(VOCABULARY) if token_id != place])
    rows = [SampleArgs(), SampleArgs(1.0, uniform=0.5, mask=allowed), SampleArgs(bias=LogitBias({place: -100}))]
    assert sample(logits, rows, chooser).broken == {0, 1, 2}


def test_a_row_whose_every_token_is_banned_is_broken(chooser: Chooser) -> None:
    nothing = SampleArgs(0.7, 0.9, uniform=0.5, mask=mask_of([]))
    only_7 = SampleArgs(0.7, 0.9, uniform=0.5, mask=mask_of([7]))
    sampled = sample(LOGITS[:3].clone(), [nothing, only_7, SampleArgs(mask=mask_of([]))], chooser)
    assert sampled.broken == {0, 2}
    assert sampled.token_ids[1] == 7
