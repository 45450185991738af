"""The text of one sequence's answer, token by token: detokenized, and ended by stop strings and stop tokens."""

from collections.abc import Mapping

from inference.text.detokenizer import Decode, Detokenizer
from inference.text.stop_strings import StopStrings
from interface.requests import SamplingParams


class OutputText:
    """Says what each token adds to the text, and whether the text ends there.

    Args:
        decode: makes text of token ids.
        ends: the tokens that end the text, each with what `stop_reason` says then. Their own text is not shown.
        params: the stop strings and what belongs to them.
    """

    def __init__(self, decode: Decode, ends: Mapping[int, str | int | None], params: SamplingParams) -> None:
        self._detokenizer = Detokenizer(decode)
        self._stop_strings = StopStrings(params.stop or (), params.include_stop_str_in_output)
        self._ends = ends
        self._shown_ends = (
            {token_id for token_id, reason in ends.items() if reason is not None}
            if params.include_stop_str_in_output
            else set()
        )
        self._unstoppable_tokens = params.min_tokens  # the first ones, whose text is not searched for stop strings
        self.is_ended = False
        self.stop_reason: str | int | None = None

    def push(self, token_id: int) -> str:
        """Add a token; return the text that is certain now."""
        self._unstoppable_tokens -= 1
        if token_id in self._ends:
            self.is_ended, self.stop_reason = True, self._ends[token_id]
            if token_id not in self._shown_ends:
                return ""
        return self._searched(self._detokenizer.push(token_id))

    def flush(self) -> str:
        """Return what was held back, when no more tokens will come."""
        return self._searched(self._detokenizer.flush()) + self._stop_strings.flush()

    def _searched(self, text: str) -> str:
        if self._unstoppable_tokens >= 0:
            return text
        text = self._stop_strings.push(text)
        if self._stop_strings.found is not None:
            self.is_ended, self.stop_reason = True, self._stop_strings.found
        return text
