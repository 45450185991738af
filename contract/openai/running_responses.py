"""What is kept of a response while it is made in the background: any process of the server can show and cancel it.

All of it is kept together with a mark that it is wanted. Cancelling and deleting take the mark away, as does a memory
that is full. What is written after that is not kept, and the driver, which asks for the mark, ends the request.
"""

import json

from contract.openai.kept_responses import KeptResponses, input_pieces, response_pieces
from contract.openai.responses_answer import ResponseObject
from interface.kept import Kept


class RunningResponses:
    """The responses of one client that are made in the background. Their streams are kept in pieces, by number."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def begin(self, response: ResponseObject, input: bytes, written: bytes | None) -> None:
        """Keep a response before anything has been generated. `written` begins its stream; None if it has none."""
        stream = {} if written is None else {_piece(response.id, 0): written}
        pieces = response_pieces(response) | input_pieces(response.id, input)
        self._kept.put({**pieces, _wanted(response.id): b"", **stream})

    def add(self, id: str, number: int, written: bytes) -> None:
        """Keep a piece of the stream."""
        self._kept.put({_piece(id, number): written}, beside=_wanted(id))

    def end(self, response: ResponseObject, number: int, written: bytes | None) -> None:
        """Keep the response as it has become, and the last piece of its stream."""
        stream = {} if written is None else {_piece(response.id, number): written}
        ended = {f"ended {response.id}": b""}
        self._kept.put({**response_pieces(response), **ended, **stream}, beside=_wanted(response.id))

    def is_wanted(self, id: str) -> bool:
        return self._kept.get(_wanted(id)) is not None

    def is_over(self, id: str) -> bool:
        """Whether nothing more will be written."""
        return self._kept.get(f"ended {id}") is not None or not self.is_wanted(id)

    def piece(self, id: str, number: int) -> bytes | None:
        """A piece of the stream; None if there is none yet, or no stream."""
        return self._kept.get(_piece(id, number))

    def cancel(self, id: str) -> bytes:
        """End a response that is being made, and return it; one that has ended stays as it is.

        Raises:
            Refusal: 404, it is not kept.
        """
        responses = KeptResponses(self._kept)
        found = responses.response(id)
        if json.loads(found)["status"] != "in_progress":
            return found
        cancelled = json.dumps({**json.loads(found), "status": "cancelled"}, ensure_ascii=False).encode()
        self._kept.put({f"response {id}": cancelled, f"input {id}": responses.input(id)})
        return cancelled


def _wanted(id: str) -> str:
    return f"wanted {id}"


def _piece(id: str, number: int) -> str:
    return f"stream {id} {number}"
