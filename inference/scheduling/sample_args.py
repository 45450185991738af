"""The sampler's input for each row of a step, and the log probabilities that it returns. No tensors."""

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from interface.requests import BANNED

GREEDY_BELOW = 1e-5
"""Lower temperatures would overflow the logits; they mean greedy."""


class TokenCounts:
    """Which tokens a sequence has, and how often each was generated.

    It is kept from step to step, so the cost of a penalty depends on how many different tokens the sequence has, and
    not on the vocabulary. `ids` and `counts` are parallel; a token of the prompt that was never generated has the count
    0.
    """

    def __init__(self, prompt_ids: Iterable[int] = ()) -> None:
        self._place = {token_id: place for place, token_id in enumerate(dict.fromkeys(prompt_ids))}
        self.ids = array("q", self._place)
        self.counts = array("q", bytes(self.ids.itemsize * len(self.ids)))

    def add(self, token_id: int) -> None:
        """Count a generated token."""
        place = self._place.setdefault(token_id, len(self.ids))
        if place == len(self.ids):
            self.ids.append(token_id)
            self.counts.append(0)
        self.counts[place] += 1


class LogitBias:
    """Values to add to the logits of some tokens. `ids` and `values` are parallel."""

    def __init__(self, biases: Mapping[int, float]) -> None:
        self.ids = array("q", biases.keys())
        self.values = array("f", (float("-inf") if bias <= BANNED else bias for bias in biases.values()))


@dataclass(frozen=True, slots=True)
class RowLogprobs:
    """The chosen token's log probability, and the most likely tokens with theirs, in falling order."""

    chosen: float
    top: tuple[tuple[int, float], ...]


@dataclass(slots=True)  # not frozen: one is made for every token, and a frozen one takes four times as long
class SampleArgs:
    """One row of a step's logits.

    What changes the logits comes first: the mask, the banned tokens, the bias, then the penalties. The temperature,
    min_p, top_k and top_p choose among what is left, in this order.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    uniform: float = 0.0
    """The sequence's random number for this token, in [0, 1)."""
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seen: TokenCounts | None = None
    """The tokens that penalties apply to; those of the prompt are included if there is a repetition penalty."""
    bias: LogitBias | None = None
    banned_ids: "array[int] | None" = None
    """Tokens that must not be chosen: see `bans`."""
    mask: Any = None
    """A numpy array of int32 with a bit per token of the vocabulary, the lowest first: 1 where a grammar allows it."""
    logprobs: int | None = None
    """Report the token's log probability, and those of this many most likely ones."""

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW or self.top_k == 1

    @property
    def is_truncated(self) -> bool:
        return not self.is_greedy and (self.top_p < 1 or self.top_k > 0)

    @property
    def changes_logits(self) -> bool:
        return not (self.seen is None and self.bias is None and self.banned_ids is None and self.mask is None)
