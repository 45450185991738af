"""Sets the prefill budget of a step from measured step times.

A chunk of 128 tokens may cost two steps' time on one machine and twenty on another, and more behind a long text than
at its beginning. So the number of prompt tokens that share a step with running streams is derived from what steps
take: a step with a chunk should last at most `MAX_SLOWDOWN` times as long as one without.

Where prompts outnumber the streams, the question is how few tokens are enough. Each step reads all the weights, so few
of them waste time; but with more, prompts that are complete wait for others that come after them.

Model: step time = baseline + cost per extra token, where every stream and every prompt token counts as one. Both terms
are running means of measured steps.
"""

MAX_SLOWDOWN = 2.5
"""How many times as long a step may take because of a prefill."""
MIN_TOKENS = 16
"""A prefill gets at least this many tokens. Each step reads all the weights, so fewer would hardly cost less."""
LEAST_ENOUGH = 64
"""A step has at least this many prompt tokens before it leaves out further prompts."""
READINGS = 4
"""Prompt tokens are enough if they take this many times as long as reading the weights."""
REFRESH_AFTER = 32
"""After this many steps with a prefill, one runs without, so that the baseline stays up to date."""


class PrefillBudget:
    """The budget, from running means of step times in seconds. A step with a prefill gets at least `least` tokens."""

    def __init__(self, least: int = MIN_TOKENS) -> None:
        self._least = least
        self._baseline: float | None = None  # a step without prompt tokens
        self._baseline_streams = 0.0  # the mean number of streams in such a step
        self._cost_per_token: float | None = None  # what each extra token added
        self._steps_since_baseline = 0  # steps with a prefill since the last one without

    def record_step(self, streams: int, prompt_tokens: int, seconds: float) -> None:
        """Learn from a step that decoded `streams` tokens and prefilled `prompt_tokens`."""
        if prompt_tokens == 0:
            weight = 1 / 2 if self._steps_since_baseline >= REFRESH_AFTER else 1 / 8
            previous_streams = None if self._baseline is None else self._baseline_streams
            self._baseline_streams = _running_mean(previous_streams, streams, weight)
            self._baseline = _running_mean(self._baseline, seconds, weight)
            self._steps_since_baseline = 0
            return
        self._steps_since_baseline += 1
        extra_tokens = streams - self._baseline_streams + prompt_tokens
        if extra_tokens >= MIN_TOKENS:  # fewer are too few to measure above the noise
            cost = max(0.0, seconds - (self._baseline or 0.0)) / extra_tokens
            # The cost grows with the text before, so the newest chunk counts for half.
            self._cost_per_token = _running_mean(self._cost_per_token, cost, 1 / 2)

    def tokens(self, streams: int, most: int) -> int:
        """Return how many prompt tokens, at most `most`, a step may prefill while `streams` wait for it.

        Now and then that is 0, see `REFRESH_AFTER`.
        """
        if self._steps_since_baseline >= REFRESH_AFTER:
            return 0
        if self._baseline is None or not self._cost_per_token:
            return most
        extra_streams = streams - self._baseline_streams
        without = max(self._baseline, self._baseline + extra_streams * self._cost_per_token)
        return min(most, max(self._least, self._affordable(most, (MAX_SLOWDOWN - 1) * without)))

    def enough(self, most: int) -> int:
        """Return how many prompt tokens, at most `most`, a step should have before it leaves out further prompts."""
        if self._baseline is None or not self._cost_per_token:
            return most
        reading = self._baseline - self._baseline_streams * self._cost_per_token
        return min(most, max(LEAST_ENOUGH, self._affordable(most, READINGS * reading)))

    def _affordable(self, most: int, seconds: float) -> int:
        """How many tokens, at most `most`, can be computed in `seconds`. The quotient may be infinite."""
        cost = self._cost_per_token or 0.0
        return most if seconds >= most * cost else int(seconds / cost)


def _running_mean(mean: float | None, value: float, weight: float) -> float:
    """The running mean after one more value; the first value starts it."""
    return value if mean is None else (1 - weight) * mean + weight * value
