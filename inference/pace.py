"""How long steps take here, and so how much of a prompt may go into one that others wait for.

A chunk of 128 tokens may cost two steps' time on one machine and twenty on another, and behind a long text more than
at its beginning. So the number of prompt tokens beside running streams goes by the clock: a step with a chunk may take
`SLOWEST` times as long as it would without.

A step's time is taken to be that of a usual one without a prompt, and as much more for each token more that it works
on, be it a stream's or a prompt's. Both figures are running means.
"""

SLOWEST = 2.5
"""How many times as long a step may take for a prompt's sake."""
LEAST = 16
"""Tokens that a prompt gets in any case, and what their number is a multiple of: fewer hardly cost less, and for each
new number of rows kernels have to be made."""


class Pace:
    """What the last steps took. Times are in seconds."""

    def __init__(self) -> None:
        self._usual = 0.0  # a step without prompt tokens; 0: there was none yet
        self._usual_streams = 0.0  # how many streams it gave a token
        self._per_token = 0.0  # what each token more added

    def took(self, streams: int, prompt_tokens: int, seconds: float) -> None:
        """Note a step that gave so many streams a token and took in so many tokens of prompts."""
        if prompt_tokens == 0:
            self._usual_streams = _mixed(self._usual_streams, streams, 1 / 8)
            self._usual = _mixed(self._usual, seconds, 1 / 8)
        else:
            more = max(1.0, streams - self._usual_streams + prompt_tokens)
            # The cost grows with the text before, so the last chunk counts for half.
            self._per_token = _mixed(self._per_token, max(0.0, seconds - self._usual) / more, 1 / 2)

    def prompt_tokens(self, streams: int, most: int) -> int:
        """How many tokens, `most` at most, a step may take in while so many streams wait for it."""
        without = max(self._usual, self._usual + (streams - self._usual_streams) * self._per_token)
        allowed = (SLOWEST - 1) * without
        if not self._usual or self._per_token * most <= allowed:
            return most
        return min(most, max(LEAST, int(allowed / self._per_token) // LEAST * LEAST))


def _mixed(before: float, now: float, weight: float) -> float:
    """A running mean that begins with its first value."""
    return now if not before else (1 - weight) * before + weight * now
