"""Kernels that begin before the end of the one before them.

On Hopper and later GPUs a kernel begins while the one before it still runs, asks for its first weights, and waits only
then (programmatic dependent launch; `gdc_wait`). So the memory has work between two kernels too.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

OVERLAPS = True
"""Whether kernels begin before the end of the ones before them, where the GPU can (Hopper and later)."""


def overlap(x: Tensor) -> dict[str, Any]:
    """The launch options, on the device of `x`, of a kernel that calls `wait_for_input` or both of its halves."""
    overlaps = OVERLAPS and x.is_cuda and torch.cuda.get_device_capability(x.device)[0] >= 9
    return {"OVERLAPS": True, "launch_pdl": True} if overlaps else {"OVERLAPS": False}


@triton.jit
def wait_for_input(OVERLAPS: tl.constexpr):
    """Let the next kernel begin, and wait for what the one before this has written."""
    if OVERLAPS:
        gdc_launch_dependents()
        gdc_wait()
