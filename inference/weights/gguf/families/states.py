"""What families have in common whose layers keep states: convolutions, and how fast a state decays."""

from torch import Tensor

OF_STATES = frozenset(
    f"ssm.{key}" for key in ("conv_kernel", "state_size", "group_count", "inner_size", "time_step_rank")
)
"""Sizes of layers with a state."""


def kernels(rows: Tensor) -> Tensor:
    """The kernels of a convolution within each channel, [channels, 1, length], of [channels, length]."""
    return rows.unsqueeze(1)


def decays(numbers: Tensor) -> Tensor:
    """The logarithms of how fast states decay, as a vector, of these numbers below 0."""
    return (-numbers).log().flatten()


def flat(numbers: Tensor) -> Tensor:
    """A vector of a matrix with the same numbers."""
    return numbers.flatten()
