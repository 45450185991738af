"""The kernel that draws a step's tokens chooses the same tokens as torch operators, for all settings of a row."""

import importlib
import random
from array import array
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from inference.sampling import draw
from inference.scheduling.sample_args import LogitBias, SampleArgs, TokenCounts
from tests.support.triton_interpreter import DEVICE, IS_INTERPRETED, mend_interpreter, run_programs_at_once

pytestmark = pytest.mark.gpu

ROWS = 5
VOCABULARIES = [1, 2, 40, 777, 3001, 4096, 5001, 9001]


@pytest.fixture
def choose_on_device(monkeypatch: pytest.MonkeyPatch) -> draw.DeviceChooser:
    """The chooser in Triton, imported where there is Triton only."""
    mend_interpreter(monkeypatch)
    chooser: draw.DeviceChooser = importlib.import_module("inference.decoders.gpu.chooser").KernelChooser(DEVICE)
    return chooser


def randn(rows: int, vocabulary: int, seed: int, width: float = 1.0) -> Tensor:
    return (torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * width).to(DEVICE)


def masked(logits: Tensor) -> Tensor:
    """Two of three tokens banned, but the first one."""
    is_banned = torch.arange(logits.shape[-1], device=DEVICE) % 3 > 0
    return logits.masked_fill(is_banned, float("-inf"))


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "nearly level": lambda logits: logits / 100,
    "plain": lambda logits: logits * 3,
    "peaked": lambda logits: logits * 10,
    "of many ties": lambda logits: logits.round(),
    "all equal": torch.zeros_like,
    "masked": masked,
    "in half precision": lambda logits: (logits * 3).bfloat16(),
}


def any_row(rng: random.Random) -> SampleArgs:
    return SampleArgs(
        temperature=rng.choice([0.0, 0.1, 0.7, 1.0, 2.0, rng.uniform(0, 2)]),
        top_p=rng.choice([1.0, 1.0, 0.9, 0.1, 0.999999, 1 - rng.random()]),
        top_k=rng.choice([0, 0, 1, 5, 40, rng.randrange(1, 9000), 2**70]),
        min_p=rng.choice([0.0, 0.0, 0.1, rng.random()]),
        uniform=rng.choice([0.0, rng.random(), rng.random()]),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_the_kernel_draws_what_torch_draws(choose_on_device: draw.DeviceChooser, vocabulary: int, kind: str) -> None:
    rng = random.Random(f"{vocabulary} {kind}")
    logits = KINDS[kind](randn(ROWS, vocabulary, vocabulary))
    rows = [any_row(rng) for _ in range(ROWS)]
    expected = draw.choose_on_device(logits.clone(), rows)
    assert choose_on_device(logits.clone(), rows).tolist() == expected.tolist(), rows


@pytest.mark.parametrize(
    "settings",
    [{}, {"top_p": 0.6}, {"top_k": 7}, {"top_k": 9, "top_p": 0.8, "min_p": 0.02}, {"top_p": 5e-324}, {"min_p": 1.0}],
    ids=str,
)
def test_every_token_comes_as_often_as_it_should(
    choose_on_device: draw.DeviceChooser, settings: dict[str, Any]
) -> None:
    draws = 20 if IS_INTERPRETED else 500
    rows = [SampleArgs(temperature=1.5, uniform=(number + 0.5) / draws, **settings) for number in range(draws)]
    logits = randn(1, 40, seed=1, width=2).expand(draws, -1).contiguous()
    assert Counter(choose_on_device(logits, rows).tolist()) == Counter(draw.choose_on_device(logits, rows).tolist())


def test_a_broken_row_is_reported_and_ends_alone(choose_on_device: draw.DeviceChooser) -> None:
    logits = randn(6, 5001, seed=2)
    sampled = SampleArgs(temperature=0.8, top_p=0.9, uniform=0.4)
    whole = choose_on_device(logits.clone(), [sampled] * 6).tolist()
    logits[1, 4999], logits[2, 8], logits[4] = float("nan"), float("inf"), float("-inf")
    assert choose_on_device(logits, [sampled] * 6).tolist() == [whole[0], -1, -1, whole[3], -1, whole[5]]


def test_neighbours_of_any_settings_change_nothing(choose_on_device: draw.DeviceChooser) -> None:
    rng = random.Random(3)
    logits, rows = randn(8, 4500, seed=3, width=2), [any_row(rng) for _ in range(8)]
    alone = [choose_on_device(logits[n : n + 1].clone(), rows[n : n + 1]).item() for n in range(8)]
    assert choose_on_device(logits.clone(), rows).tolist() == alone


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_banned_tokens_are_not_drawn_even_at_the_ends_of_the_range(
    choose_on_device: draw.DeviceChooser, uniform: float
) -> None:
    logits = torch.full((1, 5000), float("-inf"), device=DEVICE)
    logits[0, 7], logits[0, 4321], logits[0, 4990] = 1.0, 1.5, -60.0
    for settings in ({}, {"top_k": 5}, {"top_p": 0.99}, {"min_p": 0.1}):
        row = SampleArgs(temperature=1.0, uniform=uniform, **settings)
        assert choose_on_device(logits, [row]).tolist() == [7 if uniform == 0 else 4321]


def test_of_equal_logits_the_lower_ids_are_kept(choose_on_device: draw.DeviceChooser) -> None:
    logits = torch.zeros(10, 5000, device=DEVICE)
    last = 1 - 2**-53
    rows = [SampleArgs(temperature=1.0, uniform=(n + 0.5) / 8, top_k=4) for n in range(8)]
    rows += [SampleArgs(temperature=1.0, uniform=last, top_p=0.9)]
    rows += [SampleArgs(temperature=1.0, uniform=last, top_p=0.5, top_k=4500)]
    assert choose_on_device(logits, rows).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4499, 2249]


def test_changed_logits_are_drawn_from_as_in_torch(choose_on_device: draw.DeviceChooser) -> None:
    seen = TokenCounts([5, 6, 7])
    seen.add(9)
    sampled: dict[str, Any] = {"temperature": 0.9, "uniform": 0.6}
    rows = [
        SampleArgs(seen=seen, repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.1, **sampled),
        SampleArgs(bias=LogitBias({3: 4.0, 8: -100.0}), top_p=0.8, **sampled),
        SampleArgs(banned_ids=array("q", [1, 2])),
        SampleArgs(mask=np.array([0b1011] + [0] * 31, np.int32), **sampled),
        SampleArgs(mask=np.array([0b1011] + [0] * 31, np.int32), **sampled),
        SampleArgs(**sampled),
    ]
    logits = randn(6, 1000, seed=4, width=3)
    logits[4, 500] = float("nan")  # banned, and yet the row is broken
    expected = draw.choose_on_device(logits.clone(), rows).tolist()
    assert choose_on_device(logits.clone(), rows).tolist() == expected
    assert expected[3] in (0, 1, 3)
    assert expected[4] == -1


def test_one_draw_after_another_chooses_the_same_for_the_same_rows(choose_on_device: draw.DeviceChooser) -> None:
    rng = random.Random(5)
    logits, rows = randn(9, 200, seed=5, width=2), [any_row(rng) for _ in range(9)]
    expected = draw.choose_on_device(logits.clone(), rows).tolist()
    for draws in range(3 if IS_INTERPRETED else 300):
        count = 1 + draws * 7 % 9
        assert choose_on_device(logits[:count].clone(), rows[:count]).tolist() == expected[:count]


@pytest.mark.parametrize("kind", KINDS)
def test_programs_that_share_a_row_draw_what_torch_draws(
    choose_on_device: draw.DeviceChooser, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_programs_at_once(monkeypatch)
    kernel = importlib.import_module("inference.decoders.gpu.kernels.draw")
    monkeypatch.setattr(kernel, "parts_for", lambda rows, logits: 4)
    rng = random.Random(kind)
    for vocabulary in (1, 200, 3001):
        logits = KINDS[kind](randn(2, vocabulary, vocabulary))
        rows = [any_row(rng) for _ in range(2)]
        expected = draw.choose_on_device(logits.clone(), rows)
        assert choose_on_device(logits.clone(), rows).tolist() == expected.tolist(), rows
