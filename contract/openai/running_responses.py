"""What is kept of a response while it is made in the background: any process of the server can show and cancel it.

All of it is kept together with a mark that it is wanted. Cancelling and deleting take the mark away, as does a memory
that is full. What is written after that is not kept, and the driver, which asks for the mark, ends the request.

The other way round, the process that makes it may have ended. So it has a lease of `LEASE` seconds on the response,
which it renews; a response whose lease has run out is shown as failed.
"""

import json
import time
from dataclasses import dataclass

from contract.openai.kept_responses import KeptResponses, input_pieces, response_pieces
from contract.openai.responses_answer import ResponseObject
from interface.kept import Kept

RENEW_EVERY = 10.0
"""Seconds after which a process renews its lease on a response."""
LEASE = 60.0
"""Seconds that a lease lasts."""
LOST = {"code": "server_error", "message": "The process that made this response has ended before it was whole."}


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a response's stream."""

    number: int
    written: bytes
    """Its frames; empty if there is nothing to keep."""


class RunningResponses:
    """The responses of one client that are made in the background. Their streams are kept in pieces, by number."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._responses = KeptResponses(kept)

    def begin(self, response: ResponseObject, input: bytes, piece: Piece) -> None:
        """Keep a response before anything has been generated, and the beginning of its stream if it has one."""
        pieces = response_pieces(response) | input_pieces(response.id, input) | _stream_piece(response.id, piece)
        self._kept.put({**pieces, _wanted(response.id): b"", **_lease_from_now(response.id)})

    def renew(self, id: str) -> None:
        """Renew the lease on a response, which is still being made."""
        self._kept.put(_lease_from_now(id), beside=_wanted(id))

    def add(self, id: str, piece: Piece) -> None:
        """Keep a piece of the stream."""
        self._kept.put(_stream_piece(id, piece), beside=_wanted(id))

    def end(self, response: ResponseObject, piece: Piece) -> None:
        """Keep the response as it has become, and the last piece of its stream."""
        pieces = response_pieces(response) | _stream_piece(response.id, piece)
        self._kept.put({**pieces, _ended(response.id): b""}, beside=_wanted(response.id))

    def is_wanted(self, id: str) -> bool:
        return self._kept.get(_wanted(id)) is not None

    def is_over(self, id: str) -> bool:
        """Whether nothing more will be written."""
        return self._kept.get(_ended(id)) is not None or not self.is_wanted(id) or self._is_lost(id)

    def response(self, id: str) -> bytes:
        """The response as it is now.

        Raises:
            Refusal: 404, it is not kept.
        """
        response = self._responses.response(id)
        if json.loads(response)["status"] != "in_progress" or not self._is_lost(id):
            return response
        return json.dumps({**json.loads(response), "status": "failed", "error": LOST}, ensure_ascii=False).encode()

    def _is_lost(self, id: str) -> bool:
        ends_at = self._kept.get(_lease(id))
        return ends_at is not None and time.monotonic() > float(ends_at)

    def piece(self, id: str, number: int) -> bytes | None:
        """A piece of the stream; None if there is none yet, or no stream."""
        return self._kept.get(_piece(id, number))

    def cancel(self, id: str) -> bytes:
        """End a response that is being made, and return it; one that has ended stays as it is.

        Raises:
            Refusal: 404, it is not kept.
        """
        response = self.response(id)
        if json.loads(response)["status"] != "in_progress":
            return response
        cancelled = json.dumps({**json.loads(response), "status": "cancelled"}, ensure_ascii=False).encode()
        self._responses.replace(id, cancelled)  # without the mark that it is wanted
        return cancelled


def _lease(id: str) -> str:
    return f"lease {id}"


def _lease_from_now(id: str) -> dict[str, bytes]:
    """The monotonic clock is the same for all processes of a system, and does not change when its time is set."""
    return {_lease(id): repr(time.monotonic() + LEASE).encode()}


def _wanted(id: str) -> str:
    return f"wanted {id}"


def _ended(id: str) -> str:
    return f"ended {id}"


def _piece(id: str, number: int) -> str:
    return f"stream {id} {number}"


def _stream_piece(id: str, piece: Piece) -> dict[str, bytes]:
    return {_piece(id, piece.number): piece.written} if piece.written else {}
