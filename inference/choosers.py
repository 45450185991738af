"""Which function chooses a step's tokens: in C++, in Triton, or in torch."""

import logging

import torch

from inference.cpp.build import CannotBuild
from inference.decoders.gpu.graphs import row_counts
from inference.messages import first_line
from inference.sampling import draw
from inference.sampling.choose import Chooser, NativeChooser
from inference.sampling.draw import DeviceChooser
from inference.scheduling.sample_args import SampleArgs

log = logging.getLogger("engine")


def chooser_for(device: torch.device, is_compiled: bool, threads: int) -> Chooser:
    """The fastest chooser for logits on `device`: in C++ if compiling is asked for and works, else in torch."""
    if is_compiled and device.type == "cpu":
        try:
            return NativeChooser(threads)
        except CannotBuild as reason:
            log.info("Tokens are chosen uncompiled: %s", reason)  # the model has warned of it already
    return draw.choose


def device_chooser_for(
    device: torch.device, is_compiled: bool, vocabulary: int, dtype: torch.dtype, slots: int
) -> DeviceChooser:
    """The fastest chooser that leaves the tokens on the device: in Triton if that works there, else in torch."""
    if is_compiled and device.type == "cuda":
        try:
            return _with_kernels(device, vocabulary, {dtype, torch.float32}, slots)
        except Exception as error:  # no Triton, no compiler for it, a GPU that it does not know
            log.warning("Tokens are chosen without kernels of their own: %s", first_line(error))
    return draw.choose_on_device


def _with_kernels(device: torch.device, vocabulary: int, dtypes: set[torch.dtype], slots: int) -> DeviceChooser:
    """The chooser in Triton, whose kernels are compiled now: no request waits for it."""
    from inference.decoders.gpu.chooser import KernelChooser

    choose_on_device = KernelChooser(device)
    for dtype in dtypes:  # logits that have been changed are float32
        for count in row_counts(slots):  # how a kernel is compiled depends on how many programs share a row
            logits = torch.zeros(count, vocabulary, dtype=dtype, device=device)
            for row in (SampleArgs(), SampleArgs(temperature=1.0)):
                choose_on_device(logits, [row] * count)
    return choose_on_device
