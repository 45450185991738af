"""How long steps take here, and so how much of a prompt may go into one that others wait for.

A chunk of 128 tokens may cost two steps' time on one machine and twenty on another, and behind a long text more than
at its beginning. So the number of prompt tokens beside running streams goes by the clock: a step with a chunk is meant
to take at most `SLOWEST` times as long as it would without.

A step is taken to last as long as a step without a prompt, and for each token more, be it a stream's or a prompt's, a
certain time longer. Both times are running means of what was measured.
"""

SLOWEST = 2.5
"""How many times as long a step may take for a prompt's sake."""
LEAST = 16
"""Tokens that a prompt gets in any case: each step reads all the weights, so fewer would hardly cost less."""
STALE = 32
"""After so many steps with prompts in them, one goes without, to see how long that takes by now."""


class Pace:
    """What the last steps took. Times are in seconds."""

    def __init__(self) -> None:
        self._usual: float | None = None  # a step without prompt tokens
        self._usual_streams = 0.0  # how many streams it gave a token
        self._per_token: float | None = None  # what each token more added
        self._since_usual = 0  # steps with prompts since the last one without

    def took(self, streams: int, prompt_tokens: int, seconds: float) -> None:
        """Note a step that gave so many streams a token and took in so many tokens of prompts."""
        if prompt_tokens == 0:
            weight = 1 / 2 if self._since_usual >= STALE else 1 / 8
            self._usual_streams = _mixed(None if self._usual is None else self._usual_streams, streams, weight)
            self._usual = _mixed(self._usual, seconds, weight)
            self._since_usual = 0
            return
        self._since_usual += 1
        more = streams - self._usual_streams + prompt_tokens
        if more >= LEAST:  # what so few tokens add is not to be told from what any step takes more or less
            # The cost grows with the text before, so the last chunk counts for half.
            self._per_token = _mixed(self._per_token, max(0.0, seconds - (self._usual or 0.0)) / more, 1 / 2)

    def prompt_tokens(self, streams: int, most: int) -> int:
        """How many tokens, `most` at most, a step may take in while so many streams wait for it; now and then none."""
        if self._since_usual >= STALE:
            return 0
        if self._usual is None or not self._per_token:
            return most
        without = max(self._usual, self._usual + (streams - self._usual_streams) * self._per_token)
        return min(most, max(LEAST, int((SLOWEST - 1) * without / self._per_token)))


def _mixed(before: float | None, now: float, weight: float) -> float:
    """A running mean that begins with its first value."""
    return now if before is None else (1 - weight) * before + weight * now
