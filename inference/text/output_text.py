"""The text of one sequence's answer, token by token: detokenized, and ended by stop strings and stop tokens.

A stop string may contain the text of a special token, which has no text in the answer. Such a token adds a mark to the
text that is searched, and the mark is removed from the text that is shown.
"""

from collections.abc import Mapping, Sequence

from inference.text.detokenizer import Decode, Detokenizer
from inference.text.stop_strings import StopStrings
from interface.requests import SamplingParams

MARKS = tuple(map(chr, range(0xFDD0, 0xFDF0)))
"""Code points that Unicode keeps for a program's own use, and that no text contains."""


class OutputText:
    """Finds out which text each token adds, and whether the text ends with it.

    Args:
        decode: makes text of token ids.
        ends: the tokens that end the text, each with its `stop_reason`. Their own text is not shown.
        params: the sampling parameters, of which those about stop strings are used.
        hidden_tokens: the texts of the special tokens that `decode` leaves out.
        own_stops: more stop strings, of the model itself, which are not reported as `stop_reason`.
        before: the tokens of another text that this one continues.
    """

    def __init__(
        self,
        decode: Decode,
        ends: Mapping[int, str | int | None],
        params: SamplingParams,
        hidden_tokens: Mapping[int, str],
        own_stops: Sequence[str] = (),
        before: Sequence[int] = (),
    ) -> None:
        self._detokenizer = Detokenizer(decode, before)
        self._reported = set(params.stop or ())
        stops = [*self._reported, *own_stops]
        self._marks = _marks(stops, hidden_tokens)
        self._texts = {self._marks[token_id]: hidden_tokens[token_id] for token_id in self._marks}
        self._stops = {self._marked(stop): stop for stop in stops}
        self._stop_strings = StopStrings(tuple(self._stops), params.include_stop_str_in_output)
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
        return self._searched(self._detokenizer.push(token_id) + self._marks.get(token_id, ""))

    def flush(self) -> str:
        """Return what was held back, when no more tokens will come."""
        return self._searched(self._detokenizer.flush()) + self._without_marks(self._stop_strings.flush())

    def _searched(self, text: str) -> str:
        if self._unstoppable_tokens >= 0:
            return self._without_marks(text)
        text = self._stop_strings.push(text)
        found = self._stop_strings.found
        if found is None:
            return self._without_marks(text)
        stop = self._stops[found]
        self.is_ended, self.stop_reason = True, stop if stop in self._reported else None
        return (
            self._without_marks(text.removesuffix(found)) + stop if text.endswith(found) else self._without_marks(text)
        )

    def _marked(self, stop: str) -> str:
        """Replace special tokens in a stop string by their marks, the longest ones first."""
        for mark, text in sorted(self._texts.items(), key=lambda item: -len(item[1])):
            stop = stop.replace(text, mark)
        return stop

    def _without_marks(self, text: str) -> str:
        """Remove the marks from a text."""
        return text.translate(dict.fromkeys(map(ord, self._texts))) if self._texts else text


def _marks(stops: Sequence[str], hidden_tokens: Mapping[int, str]) -> dict[int, str]:
    """A mark for each hidden token whose text is a part of a stop string."""
    parts = [token_id for token_id, text in hidden_tokens.items() if any(text in stop for stop in stops)]
    return dict(zip(parts, MARKS, strict=False))
