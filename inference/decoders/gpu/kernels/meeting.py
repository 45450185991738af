"""Lets programs that share a row exchange what each has found in its part, at a barrier (here: a meeting).

All of the programs must run at once, or those at the barrier would wait for ever for those that cannot start. So there
are no more of them than multiprocessors, each of which has room for several: when the kernels before them have ended,
they all run. Where kernels cannot overlap, they are also launched as a cooperative grid, which a GPU runs as a whole or
refuses. (Such a grid does not overlap, and a step of 4 to 64 rows on an H200 is 0.08 ms longer.) A row with one program
needs no barrier.
"""

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference.decoders.gpu.kernels.overlap import overlap

NOTES = tl.constexpr(8)
"""The most numbers that a program passes to the others at a meeting."""
MOST_PARTS = 32


def parts_for(rows: int, x: Tensor) -> int:
    """How many programs share a row: as many as run at once if each has a multiprocessor; a power of two."""
    if not x.is_cuda:
        return 1  # Triton's interpreter runs one program after the other
    parts = 1
    while 2 * parts * rows <= _multiprocessors(x.device) and parts < MOST_PARTS:
        parts *= 2
    return parts


def together(x: Tensor, parts: int) -> dict[str, Any]:
    """The launch options, on the device of `x`, of a kernel whose programs meet, and which calls `wait_for_input`."""
    how = overlap(x)
    return how if how["OVERLAPS"] or parts == 1 else {**how, "launch_cooperative_grid": True}


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


@triton.jit
def exchange(found, notes, arrived, meeting, part, PARTS: tl.constexpr):
    """Pass what this program has found [n] to the row's other programs; return what all have found, [PARTS, n].

    Args:
        notes: [2, PARTS, NOTES] of the row. Meetings alternate between two pages: one may still be read while the next
            is written.
        arrived: how often programs of the row have arrived at a meeting.
        meeting: the number of this meeting.
    """
    numbers = tl.arange(0, found.shape[0])
    if PARTS == 1:
        every = found[None, :]
    else:
        page = notes + (meeting % 2) * PARTS * NOTES
        tl.store(page + part * NOTES + numbers, found)
        tl.debug_barrier()  # every thread has stored before one of them says so
        tl.atomic_add(arrived, 1, sem="release")
        while tl.atomic_add(arrived, 0, sem="acquire") < (meeting + 1) * PARTS:
            pass
        tl.debug_barrier()
        every = tl.load(page + tl.arange(0, PARTS)[:, None] * NOTES + numbers[None, :], cache_modifier=".cg")
    return every, meeting + 1
