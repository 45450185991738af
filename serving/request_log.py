"""The line that each generation leaves in the access log."""

import logging
import time

from interface.events import Event, Failed, Finished, TerminalEvent, Token

access_log = logging.getLogger("engine.access")


class RequestLog:
    """What happened to one HTTP request's sequences: what came of them, and how it ended."""

    def __init__(self, request_id: str) -> None:
        self.prompt_tokens = 0
        self.end: TerminalEvent | None = None
        self._request_id = request_id
        self._completion_tokens = 0
        self._opened_at = time.perf_counter()
        self._first_token_at: float | None = None

    @property
    def tokens(self) -> int:
        """What the request has cost so far."""
        return self.prompt_tokens + self._completion_tokens

    def record(self, event: Event) -> None:
        if isinstance(event, Token):
            self._completion_tokens += 1
            if self._first_token_at is None:
                self._first_token_at = time.perf_counter()

    def write(self) -> None:
        """Write the line; called once, when the request is over, however it ended."""
        first_token = self._first_token_at
        access_log.info(
            "generation request_id=%s prompt_tokens=%d completion_tokens=%d time_to_first_token_ms=%s finish_reason=%s",
            self._request_id,
            self.prompt_tokens,
            self._completion_tokens,
            "-" if first_token is None else f"{1e3 * (first_token - self._opened_at):.1f}",
            self._finish_reason(),
        )

    def _finish_reason(self) -> str:
        match self.end:
            case Finished():
                return self.end.finish_reason
            case Failed():
                return self.end.kind
            case None:
                return "abort"
