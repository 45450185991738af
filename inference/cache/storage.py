"""The storage of a cache: what its three layouts in memory have in common.

`Rows` has tensors for each layer, in which torch computes. `Pages` keeps some tokens of all layers together, for the
decoder in C++, and `GpuPages` does so for the kernels of Triton. All of them take slots and positions.
"""

import math
import threading
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from inference.scheduling.cache_manager import Retention

Span = tuple[int, int, int]
"""A slot, and its positions from the first up to the second, the latter not included."""


class Storage(Protocol):
    """Keys and values of every layer, slot by slot.

    Where attention reads what lies behind a slot's own last token, and hides it by weights of zero, that must be
    numbers: zero times NaN is NaN. So each storage that such an attention reads knows how far it has been written, and
    clears what an earlier text has left before the next one is written there.
    """

    shares_beginnings: bool
    """Whether `copy` lets two slots have the same memory, and so takes next to no time."""

    appends: bool
    """Whether a step only adds to what is there, so that it can be computed twice."""

    def provide(self) -> threading.Thread | None:
        """Have memory for the first texts provided before they come, on the thread that is returned, if that helps."""

    def reserve(self, slot: int, first: int, last: int) -> None:
        """Make positions `first` to `last` of a slot writable. From `first` on it holds no text any more.

        Raises:
            torch.OutOfMemoryError: there is not enough left.
        """

    def copy(self, source: int, target: int, length: int) -> None:
        """Make a slot hold the first `length` positions of another one, in every layer, and nothing else."""

    def are_finite(self, spans: Sequence[Span]) -> list[bool]:
        """Whether the last layer's keys are numbers, for each span.

        A number that is NaN or infinite in any layer makes the keys of the layers after it so. Where the last layer may
        have forgotten a part of a span, the last one that keeps everything is read as well. On a GPU this waits for it.
        """

    @property
    def bytes(self) -> int:
        """What it takes when every slot is full."""

    @property
    def state_bytes(self) -> int:
        """What of this does not depend on the length of the texts: the states of layers that do not attend."""

    @property
    def retention(self) -> Retention:
        """How much of a text is still there after it has been computed."""


def by_span(are_finite: Tensor, spans: Sequence[Span]) -> list[bool]:
    """Whether all of a span's tokens are, for each span; `are_finite` [tokens] has one span's after another's."""
    tokens = iter(are_finite.tolist())
    return [all(list(islice(tokens, last - first))) for _, first, last in spans]


def zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that take memory as they are written: on a CPU, torch's own are all written at the start.

    The system gives that memory in large pages of 2 MiB, where it has them: numpy asks for those.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(*shape)
