"""Owns the slots of the KV cache: which are free, and which tokens each free one still holds. No tensors.

A free slot keeps the keys and values of its last sequence until another one overwrites them. That is the prefix
cache: a new sequence takes the slot that holds the longest beginning of its prompt, and prefills only the rest, so a
chat's next turn starts after all the turns before.
"""

from collections.abc import Sequence as TokenIds


class CacheManager:
    """Hands out slots. Query and change are separate: ask `can_allocate`, then `allocate`."""

    def __init__(self, slots: int) -> None:
        # What each free slot holds; the least recently used one comes first.
        self._free: dict[int, TokenIds[int]] = dict.fromkeys(range(slots), ())

    @property
    def can_allocate(self) -> bool:
        return bool(self._free)

    def allocate(self, prompt_ids: TokenIds[int], reuse: bool = True) -> tuple[int, int]:
        """Take a free slot for a prompt.

        The slot is the one with the longest reusable prefix minus what taking it evicts; ties go to the least
        recently used one.

        Returns:
            The slot, and how many of the prompt's first tokens it holds already; always fewer than all, because the
            last token's logits are needed.
        """
        common = {slot: _common_prefix(held, prompt_ids) if reuse else 0 for slot, held in self._free.items()}
        slot = max(common, key=lambda slot: 2 * common[slot] - len(self._free[slot]))
        del self._free[slot]
        return slot, min(common[slot], len(prompt_ids) - 1)

    def free(self, slot: int, cached_ids: TokenIds[int]) -> None:
        """Give a slot back, with the tokens whose keys and values it holds."""
        self._free[slot] = cached_ids


def _common_prefix(held: TokenIds[int], prompt_ids: TokenIds[int]) -> int:
    """Return how many tokens two texts have in common at their beginning."""
    pairs = enumerate(zip(held, prompt_ids, strict=False))
    return next((length for length, (one, other) in pairs if one != other), min(len(held), len(prompt_ids)))
