"""What the sampler needs to know about one row of a batch; no tensors."""

from dataclasses import dataclass

GREEDY_BELOW = 1e-5
"""Lower temperatures would overflow the logits, so they mean greedy."""


@dataclass(frozen=True, slots=True)
class SampleArgs:
    """How to sample one row's token. `uniform` is the sequence's random number for it, in [0, 1)."""

    temperature: float
    top_p: float
    top_k: int
    uniform: float

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    @property
    def is_truncated(self) -> bool:
        return not self.is_greedy and (self.top_p < 1 or self.top_k > 0)
