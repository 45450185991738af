"""Guesses a sequence's next tokens from its own text: what followed when its newest tokens came before.

A step computes the guessed tokens together with the one before them, at little more than the cost of one, and chooses a
token after each. The first chosen token that differs from its guess is the step's last one, and later guesses are
dropped. So a guess changes how long a text takes, and never the text.

The number of guesses follows their success. While all come true they grow; after one whose first token was wrong, the
sequence pauses, each time for longer. (Yang et al. 2023, "Inference with Reference"; Saxena 2023, "Prompt Lookup
Decoding".)
"""

from collections.abc import Sequence

NGRAM = 3
"""How many of the newest tokens must have come before, in the same order. Fewer come again by chance."""
FEWEST = 2
"""Tokens of a first guess."""
FIRST_PAUSE, LONGEST_PAUSE = 4, 64
"""Tokens made without a guess, after the first guess that was wrong from its first token, and after many in a row."""


class Drafter:
    """One sequence's guesses."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._ids = list(token_ids)
        self._after: dict[tuple[int, ...], int] = {}  # for each n-gram, where the text went on the last time
        for end in range(NGRAM, len(self._ids)):
            self._after[tuple(self._ids[end - NGRAM : end])] = end
        self._length = FEWEST
        self._pause = FIRST_PAUSE
        self._paused = 0  # tokens to go
        self._guesses: list[int] = []
        self._came_true = 0  # of these, from the first on

    def guess(self, most: int) -> list[int]:
        """Return at most `most` tokens that may come next: what followed the earlier place, repeated if shorter."""
        start = None if self._paused else self._after.get(tuple(self._ids[-NGRAM:]))
        self._guesses, self._came_true = [], 0
        if start is not None:
            period = len(self._ids) - start
            self._guesses = [self._ids[start + place % period] for place in range(min(most, self._length))]
        return self._guesses

    def add(self, token_id: int) -> bool:
        """Take the text's next token; return whether it was guessed."""
        if len(self._ids) >= NGRAM:
            self._after[tuple(self._ids[-NGRAM:])] = len(self._ids)
        self._ids.append(token_id)
        self._paused = max(0, self._paused - 1)
        if self._came_true == len(self._guesses):
            return False
        is_true = token_id == self._guesses[self._came_true]
        self._came_true += is_true
        if not is_true or self._came_true == len(self._guesses):
            self._learn()
        return is_true

    def _learn(self) -> None:
        if self._came_true:
            self._pause = FIRST_PAUSE
            is_all = self._came_true == len(self._guesses)
            self._length = 2 * self._came_true if is_all else max(FEWEST, self._came_true)
        else:
            self._length, self._paused = FEWEST, self._pause
            self._pause = min(LONGEST_PAUSE, 2 * self._pause)
        self._guesses, self._came_true = [], 0
