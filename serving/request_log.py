"""The outcome of one HTTP request's generation, for its line in the access log and for the metrics."""

import logging
import time
from collections.abc import Sequence

from interface.events import Event, Failed, Finished, TerminalEvent, Token

access_log = logging.getLogger("engine.access")


class RequestLog:
    """The token counts and times of one HTTP request's sequences, and how the request ended."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.prompt_lengths: Sequence[int] = ()
        """Tokens of each sequence's prompt, known once the engine has accepted the request."""
        self.cached_tokens = 0
        self.end: TerminalEvent | None = None
        self._opened_at = time.perf_counter()
        self._first_token_at: float | None = None
        self._made: dict[int, int] = {}
        """Tokens of each sequence: one for each event, and in the end what the engine says, which may tell several in
        one event."""

    @property
    def prompt_tokens(self) -> int:
        return sum(self.prompt_lengths)

    @property
    def completion_tokens(self) -> int:
        return sum(self._made.values())

    @property
    def tokens(self) -> int:
        """The tokens of prompts and answers so far."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def seconds(self) -> float:
        """Since the request was opened."""
        return time.perf_counter() - self._opened_at

    @property
    def seconds_to_first_token(self) -> float | None:
        return None if self._first_token_at is None else self._first_token_at - self._opened_at

    @property
    def finish_reason(self) -> str:
        match self.end:
            case Finished():
                return self.end.finish_reason
            case Failed():
                return self.end.kind
            case None:
                return "abort"

    def record(self, event: Event) -> None:
        if isinstance(event, Token):
            self._made[event.index] = self._made.get(event.index, 0) + 1
            if self._first_token_at is None:
                self._first_token_at = time.perf_counter()
        elif isinstance(event, Finished):
            self.cached_tokens += event.cached_tokens
            self._made[event.index] = event.completion_tokens

    def write(self) -> None:
        """Write the line; called once, when the request is over, however it ended."""
        first_token = self.seconds_to_first_token
        fields: dict[str, object] = {
            "request_id": self.request_id,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "time_to_first_token_ms": None if first_token is None else round(1e3 * first_token, 1),
            "finish_reason": self.finish_reason,
        }
        shown = " ".join(f"{name}={'-' if value is None else value}" for name, value in fields.items())
        access_log.info("generation %s", shown, extra={"fields": fields})
