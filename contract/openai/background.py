"""A response in the background: it is made whether its client waits or not, and found by its id meanwhile.

`BackgroundCall` makes one, and keeps what it writes. `RecallCall` is the stream of a client that comes for it later.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from contract.answers import Answer, model_answer
from contract.endpoints import Accepted
from contract.openai.kept_responses import KeptResponses
from contract.openai.responses_answer import ResponseObject
from contract.openai.running_responses import RENEW_EVERY, Piece, RunningResponses
from contract.sse import HEARTBEAT
from interface.calls import InBackground, Recall
from interface.events import Event, Failed, Finished
from interface.kept import Kept
from interface.requests import GenerationRequest

KEEP_EVERY = 0.2
"""Seconds of a stream that are kept in one piece: keeping each event by itself would cost more than making it."""
MOST_KEPT = 16 * 1024 * 1024
"""Bytes of one stream that are kept, half of what is kept in all. The response itself is kept in any case."""
FRAME_END = b"\n\n"


class Maker(Protocol):
    """Makes a response out of events."""

    @property
    def response(self) -> ResponseObject: ...

    def start(self) -> bytes: ...

    def event(self, event: Event) -> bytes: ...


class GrowingStream:
    """What a stream has written so far, and how much of that is kept already, in numbered pieces."""

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._kept_frames = 0
        self._kept_bytes = 0
        self._pieces = 0
        self._keep_at = 0.0

    def write(self, frames: bytes) -> None:
        self._frames.append(frames)

    def after(self, frames: int) -> list[bytes]:
        """What has been written after the first `frames` frames."""
        return self._frames[frames:]

    @property
    def is_due(self) -> bool:
        """Whether it is time to keep another piece."""
        return time.monotonic() >= self._keep_at

    def next_piece(self) -> Piece:
        """What has been written since the last piece; empty if nothing was, or if too much is kept already."""
        written = b"".join(self._frames[self._kept_frames :])
        self._kept_frames = len(self._frames)
        self._kept_bytes += len(written)
        self._keep_at = time.monotonic() + KEEP_EVERY
        if self._kept_bytes > MOST_KEPT:
            written = b""
        piece = Piece(self._pieces, written)
        self._pieces += bool(written)
        return piece


class BackgroundCall(InBackground):
    """One response. Its client is answered at once, or gets a stream of what is written."""

    def __init__(
        self, requests: Sequence[GenerationRequest], stream: bool, maker: Maker, kept: Kept, input: bytes
    ) -> None:
        self.requests = requests
        self.stream = stream
        self._written = GrowingStream()
        """Stays empty without `stream`."""
        self._maker = maker
        self._running = RunningResponses(kept)
        self._input = input
        self._has_begun = False
        self._beginning = threading.Lock()
        self._renew_at = 0.0

    def writer(self, accepted: Accepted) -> "BackgroundWriter":
        self._begin()
        return BackgroundWriter(self._written)

    def answer(self, accepted: Accepted, events: Sequence[Event]) -> Answer:
        """The response as it is now."""
        self._begin()
        return model_answer(self._maker.response)

    def take(self, event: Event) -> None:
        self._begin()
        self._renew_lease()
        frames = self._maker.event(event)
        if self.stream:
            self._written.write(frames)
        if isinstance(event, Finished | Failed):
            self._running.end(self._maker.response, self._written.next_piece())
        elif self._written.is_due and (piece := self._written.next_piece()).written:
            self._running.add(self._maker.response.id, piece)

    def is_wanted(self) -> bool:
        if not self._has_begun:
            return True
        self._renew_lease()
        return self._running.is_wanted(self._maker.response.id)

    def _begin(self) -> None:
        """Keep the response, once it is certain that it will be made: the first event or its client may come first.

        At the WSGI door these are in two threads.
        """
        with self._beginning:
            if self._has_begun:
                return
            self._has_begun = True
            self._renew_at = time.monotonic() + RENEW_EVERY
            if self.stream:
                self._written.write(self._maker.start())
            self._running.begin(self._maker.response, self._input, self._written.next_piece())

    def _renew_lease(self) -> None:
        if time.monotonic() >= self._renew_at:
            self._renew_at = time.monotonic() + RENEW_EVERY
            self._running.renew(self._maker.response.id)


@dataclass(slots=True)
class BackgroundWriter:
    """Sends what a call has written, to the client that has asked for it. An event says only that there is more."""

    written: GrowingStream
    _sent: int = field(default=0, init=False)

    def start(self) -> bytes:
        return self._more()

    def event(self, event: Event) -> bytes:
        return self._more()

    def silence(self) -> bytes:
        return HEARTBEAT

    def end(self) -> bytes:
        return self._more()

    def _more(self) -> bytes:
        more = self.written.after(self._sent)
        self._sent += len(more)
        return b"".join(more)


class RecallCall(Recall):
    """The kept stream of a response, from its event `first` on. More may come while this is read."""

    requests: Sequence[GenerationRequest] = ()
    stream = True

    def __init__(self, kept: Kept, id: str, first: int) -> None:
        self._id = id
        self._responses = KeptResponses(kept)
        self._running = RunningResponses(kept)
        self._left_out = first
        """How many events are still to be left out."""
        self._pieces = 0
        self._news = b""

    @property
    def has_news(self) -> bool:
        return bool(self._news)

    def look(self) -> bool:
        is_over = self._running.is_over(self._id)  # before looking: what is written last comes with the end
        while (piece := self._running.piece(self._id, self._pieces)) is not None:
            self._pieces += 1
            frames = piece.split(FRAME_END)[:-1]
            self._news += b"".join(frame + FRAME_END for frame in frames[self._left_out :])
            self._left_out = max(0, self._left_out - len(frames))
        return not is_over

    def writer(self, accepted: Accepted) -> "RecallWriter":
        return RecallWriter(self)

    def answer(self, accepted: Accepted, events: Sequence[Event]) -> Answer:
        return Answer(200, self._responses.response(self._id))

    def taken(self) -> bytes:
        """Return the news, and forget them."""
        news, self._news = self._news, b""
        return news


@dataclass(frozen=True, slots=True)
class RecallWriter:
    """Sends what a call has found, whenever its stream is silent: it has no events of its own."""

    call: RecallCall

    def start(self) -> bytes:
        return b""

    def event(self, event: Event) -> bytes:
        return b""

    def silence(self) -> bytes:
        return self.call.taken() or HEARTBEAT

    def end(self) -> bytes:
        return b""
