"""Threads share out the panels of a product, and help one that stands still."""

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.cpp.build import Unit, build
from inference.decoders.native import structures
from inference.tensor_thread import on_tensor_thread
from tests.support.compilers import needs_compiler

pytestmark = needs_compiler
PATIENCE = 20.0


@dataclass(frozen=True)
class Shared:
    """For each panel, the thread that worked on it last, and how often one did."""

    workers: list[int]
    counts: list[int]


@cache
def library() -> ctypes.CDLL:
    return build(Unit(Path(__file__).with_name("shares.cpp"), {}))


def share_out(panels: int, threads: int, is_helped: bool = True, awaited: int = 0) -> Shared:
    """Have threads work off panels; the first one waits in its first panel until the others have done `awaited`."""
    workers, counts = torch.full((panels,), -1), torch.zeros(panels, dtype=torch.int64)
    shares = torch.zeros(threads, ctypes.sizeof(structures.Share), dtype=torch.uint8)
    on_tensor_thread(
        lambda: library().work_off_panels(
            ctypes.c_int64(panels),
            ctypes.c_void_p(shares.data_ptr()),
            ctypes.c_int64(threads),
            ctypes.c_bool(is_helped),
            ctypes.c_int64(awaited),
            ctypes.c_double(PATIENCE),
            ctypes.c_void_p(workers.data_ptr()),
            ctypes.c_void_p(counts.data_ptr()),
        )
    )
    return Shared(workers.tolist(), counts.tolist())


@settings(max_examples=50)
@given(panels=st.integers(0, 70), threads=st.integers(1, 4), is_helped=st.booleans())
def test_each_panel_is_worked_on_once(panels: int, threads: int, is_helped: bool) -> None:
    assert share_out(panels, threads, is_helped).counts == [1] * panels


def test_a_thread_that_stands_still_keeps_a_quarter_of_its_share_and_others_do_the_rest() -> None:
    shared = share_out(panels=64, threads=2, awaited=64 - 8)
    assert shared.workers == [0] * 8 + [1] * 56
    assert shared.counts == [1] * 64


def test_without_help_each_thread_does_its_own_share() -> None:
    assert share_out(panels=64, threads=2, is_helped=False, awaited=32).workers == [0] * 32 + [1] * 32
