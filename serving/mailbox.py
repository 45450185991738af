"""The mailbox of one HTTP request, for events that its reader has not taken yet, and the base of both generations."""

from collections import deque
from collections.abc import Sequence

from interface.events import Event, Failed, Finished, TerminalEvent
from interface.requests import GenerationRequest, SequenceId
from serving.request_log import RequestLog


class Mailbox:
    """Holds the events of one or several sequences, up to the end of the whole request.

    The request ends with the `Finished` of its last sequence, or with the first `Failed` of any. Later events are
    dropped.
    """

    def __init__(self, requests: Sequence[GenerationRequest], request_id: str) -> None:
        self.log = RequestLog(request_id)
        self.events: deque[Event | None] = deque()
        self.open_sequences = {request.sequence_id for request in requests}

    @property
    def has_ended(self) -> bool:
        return self.log.end is not None

    def put(self, sequence_id: SequenceId, event: Event) -> bool:
        """Take an event; return False if it was dropped."""
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
        self.events.append(event)
        return True

    def end(self, end: TerminalEvent) -> bool:
        """End the request with an event that does not come from the engine; return False if it had ended."""
        if self.has_ended:
            return False
        self.log.end = end
        self.events.append(end)
        return True


class BaseGeneration:
    """One HTTP request in flight, with one or several sequences: what the generations of both drivers share."""

    def __init__(self, requests: Sequence[GenerationRequest], request_id: str, heartbeat: float) -> None:
        self._mailbox = Mailbox(requests, request_id)
        self.heartbeat = heartbeat
        """Seconds of silence after which a stream says that it is still there."""

    @property
    def log(self) -> RequestLog:
        return self._mailbox.log

    @property
    def prompt_tokens(self) -> Sequence[int]:
        """The length of each sequence's prompt."""
        return self.log.prompt_lengths

    @property
    def cache_tokens(self) -> int:
        """Tokens that it has in the cache: none before its first token, as it may still wait for a slot."""
        return self.log.tokens if self.log.completion_tokens else 0

    @property
    def open_sequences(self) -> set[SequenceId]:
        """The sequences that have not ended."""
        return self._mailbox.open_sequences
