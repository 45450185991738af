"""The interface of a decoder, with which the engine runs a model."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor

from inference.cache.batch import Batch

TryOut = Callable[["Decoder"], None]
"""Runs every kind of step on a decoder, and sees that the logits are right."""


class Decoder(Protocol):
    """Computes a batch: its logits [sampled, vocabulary], and the new tokens' keys and values in its cache."""

    @property
    def name(self) -> str:
        """A few words that name it, for the log."""

    @property
    def has_same_bits(self) -> bool:
        """Whether a token's logits are the same to the bit, whatever else a step computes."""

    def forward(self, batch: Batch) -> Tensor: ...


@runtime_checkable
class CompilableDecoder(Decoder, Protocol):
    """A decoder that computes faster once it is compiled."""

    def compile(self, try_out: TryOut) -> None:
        """Compile the decoder. `try_out` makes every kind of step happen, so that no request waits for it.

        Raises:
            Exception: whatever the compiler or `try_out` raised; the decoder then computes as before.
        """
