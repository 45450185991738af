"""The base of both generations: the mailbox of one HTTP request."""

from collections import deque
from collections.abc import Sequence

from interface.events import Event, Failed, Finished, TerminalEvent
from interface.requests import GenerationRequest, SequenceId
from serving.request_log import RequestLog


class Mailbox:
    """One HTTP request in flight, with one or several sequences, and the events that its reader has not taken yet.

    The request ends with the `Finished` of its last sequence, or with the first `Failed` of any. Later events are
    dropped.
    """

    def __init__(self, requests: Sequence[GenerationRequest], request_id: str, heartbeat: float) -> None:
        self.log = RequestLog(request_id)
        self.open_sequences = {request.sequence_id for request in requests}
        """The sequences that have not ended."""
        self.heartbeat = heartbeat
        """Seconds of silence after which a stream says that it is still there."""
        self._events: deque[Event | None] = deque()

    @property
    def prompt_tokens(self) -> Sequence[int]:
        """The length of each sequence's prompt."""
        return self.log.prompt_lengths

    @property
    def cache_tokens(self) -> int:
        """Tokens that it has in the cache: none before its first token, as it may still wait for a slot."""
        return self.log.tokens if self.log.completion_tokens else 0

    @property
    def _has_ended(self) -> bool:
        return self.log.end is not None

    def _add(self, sequence_id: SequenceId, event: Event) -> bool:
        """Add an event of the engine; return False if it was dropped."""
        log = self.log
        if log.end is not None or sequence_id not in self.open_sequences:
            return False
        log.record(event)
        if isinstance(event, Finished):
            self.open_sequences.discard(sequence_id)
            if not self.open_sequences:
                log.end = event
        elif isinstance(event, Failed):
            log.end = event
        self._events.append(event)
        return True

    def _end(self, end: TerminalEvent) -> bool:
        """End the request with an event that does not come from the engine; return False if it had ended."""
        if self._has_ended:
            return False
        self.log.end = end
        self._events.append(end)
        return True
