"""Owns the slots of the KV cache: which are free, and which tokens each one holds. No tensors.

A free slot keeps the keys and values of its last sequence until another one overwrites them. That is the prefix
cache: a new sequence takes the slot that holds the longest beginning of its prompt, and prefills only the rest, so a
chat's next turn starts after all the turns before. Where another slot, free or running, holds or is going to hold a
longer beginning, that is copied, or shared if the cache can do that: either costs a small part of what computing does.

Eviction: a new sequence overwrites what its slot held beyond the common beginning, and nothing else. It gets the free
slot with the largest difference between the common beginning and the loss, of several such slots the least recently
used one. A running slot is never overwritten, and a copy leaves its source as it is.

The loss is the number of tokens overwritten, as far as the slot has credit. Credits are those of GreedyDual (Young
1994, "The k-server dual and loose competitiveness for paging"): a slot that becomes free has as much credit as tokens,
which is what computing them again would cost. With each loss all credits fall by as much, but at most by the smallest
of them. So short texts do not push a long one out at once, and a long text that is not used does not stay for ever.

Layers that look back over a window forget what is older (see `Retention`), so of a long text not every beginning is
there to be taken over.
"""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_COPIED = 16
"""Tokens that a copy must save."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of a text a slot still holds: all of a text of up to `whole` tokens.

    Of a longer text the slot holds the last tokens. A beginning of it that is at most `behind` tokens shorter can still
    be continued.
    """

    whole: int = sys.maxsize
    behind: int = 0

    def holds(self, beginning: int, tokens: int) -> bool:
        """Whether the first `beginning` tokens can be continued in a slot to which `tokens` were written."""
        return tokens <= self.whole or tokens - beginning <= self.behind


@dataclass(frozen=True, slots=True)
class Source:
    """A slot that holds, or is going to hold, the first `length` tokens of a prompt."""

    slot: int
    length: int


class CacheManager:
    """Hands out slots. Call `can_allocate`, then `allocate`."""

    def __init__(self, slots: int, retention: Retention | None = None) -> None:
        self.retention = retention or Retention()
        # What each free slot holds; the least recently used one comes first.
        self._free: dict[int, list[int]] = {slot: [] for slot in range(slots)}
        self._running: dict[int, list[int]] = {}  # the prompts of the others, in the order of their admission
        # How far each slot has been written since a text began there. A shorter text that takes over the beginning does
        # not bring back what the longer one pushed out of a layer's window.
        self._reaches = [0] * slots
        # All credits fall together (Cao & Irani 1997, "Cost-aware WWW proxy caching algorithms").
        self._fall = 0
        self._fall_before = [0] * slots  # what it was when each slot was freed

    @property
    def can_allocate(self) -> bool:
        return bool(self._free)

    def allocate(self, prompt_ids: Sequence[int], reuse: bool = True) -> tuple[int, int]:
        """Take a free slot for a prompt.

        Returns:
            The slot, and how many of the prompt's first tokens it holds already; always fewer than all, because the
            last token's logits are needed.
        """
        prompt = list(prompt_ids)
        common = {slot: self._reusable(slot, held, prompt) if reuse else 0 for slot, held in self._free.items()}
        loss = {slot: self._loss(slot, common[slot]) for slot in self._free}
        slot = max(self._free, key=lambda slot: common[slot] - loss[slot])
        self._fall += min(loss[slot], *map(self._credit, self._free))
        del self._free[slot]
        self._running[slot] = prompt
        if common[slot] == 0:
            self._reaches[slot] = 0
        return slot, common[slot]

    def source_for(self, slot: int, cached_tokens: int) -> Source | None:
        """Return the best other slot to copy the prompt's beginning from, if that saves enough.

        It may be running, and then not hold all of it yet. Running slots are sources for those that were admitted after
        them, never the other way round: so no two wait for each other.
        """
        prompt = self._running[slot]
        earlier = itertools.takewhile(lambda item: item[0] != slot, self._running.items())
        source, length = None, cached_tokens + LEAST_COPIED - 1
        for other, held in itertools.chain(self._free.items(), earlier):
            is_longer = held[: length + 1] == prompt[: length + 1]  # most are not, and need not be measured
            if is_longer and (common := self._reusable(other, held, prompt)) > length:
                source, length = other, common
        return None if source is None else Source(source, length)

    def holds(self, slot: int, beginning: int, cached_tokens: int) -> bool:
        """Whether a running slot, to which `cached_tokens` were written, still holds the first `beginning`."""
        return self.retention.holds(beginning, max(self._reaches[slot], cached_tokens))

    def copy(self, source: int, slot: int, cached_tokens: int) -> None:
        """Note that a slot becomes a copy of another, to which `cached_tokens` were written if it is running."""
        self._reaches[slot] = max(self._reaches[source], cached_tokens)

    def free(self, slot: int, cached_ids: Sequence[int]) -> None:
        """Give a slot back, with the tokens whose keys and values it holds."""
        del self._running[slot]
        self._reaches[slot] = max(self._reaches[slot], len(cached_ids))
        self._free[slot] = list(cached_ids)
        self._fall_before[slot] = self._fall

    def _loss(self, slot: int, common: int) -> int:
        """What overwriting a free slot's text behind a common beginning costs, in tokens."""
        return min(len(self._free[slot]) - common, self._credit(slot))

    def _credit(self, slot: int) -> int:
        """A free slot's credit, in tokens."""
        return len(self._free[slot]) - (self._fall - self._fall_before[slot])

    def _reusable(self, slot: int, held: list[int], prompt: list[int]) -> int:
        """How many of a prompt's tokens, always fewer than all, need not be computed in a slot that holds `held`."""
        common = min(_common_prefix(held, prompt), len(prompt) - 1)
        return common if self.holds(slot, common, len(held)) else 0


def _common_prefix(held: list[int], prompt: list[int]) -> int:
    """Return how many tokens two texts have in common at their beginning; whole slices are compared at a time."""
    equal, different = 0, min(len(held), len(prompt)) + 1
    length = different - 1  # most texts have all in common, or little
    while different - equal > 1:
        if held[equal:length] == prompt[equal:length]:
            equal = length
        else:
            different = length
        length = (equal + different) // 2
    return equal
