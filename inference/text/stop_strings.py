"""Ends a text at the first of its stop strings, wherever the token borders fall.

What could still become a stop string is held back, and nothing more than that. The string that is complete first
wins; of two that end together, the one that begins first. So the result depends on the text alone, not on its pieces.
"""

from collections.abc import Sequence


class StopStrings:
    """One sequence's search. `found` is the stop string that has been met; `is_included` keeps it in the text."""

    def __init__(self, stops: Sequence[str], is_included: bool = False) -> None:
        self._stops = stops
        self._is_included = is_included
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """Add text; return what is certain to come before any stop string. After one, that is nothing."""
        if not self._stops:
            return text
        if self.found is not None:
            return ""
        self._held += text
        matches = [(begin + len(stop), begin) for stop in self._stops if (begin := self._held.find(stop)) >= 0]
        if matches:
            end, begin = min(matches)
            self.found = self._held[begin:end]
            safe, self._held = self._held[: end if self._is_included else begin], ""
        else:
            border = len(self._held) - self._beginning_of_a_stop()
            safe, self._held = self._held[:border], self._held[border:]
        return safe

    def flush(self) -> str:
        """Return what was held back, when no more text will come."""
        text, self._held = self._held, ""
        return text

    def _beginning_of_a_stop(self) -> int:
        """How many of the last characters are the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
