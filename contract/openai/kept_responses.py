"""Responses that later requests refer to by an id, and do not repeat.

`contract.openai.references` finds what a request refers to; `contract.openai.responses_by_id` shows and deletes them.
"""

from collections.abc import Sequence

import pydantic_core

from contract.answers import to_json
from contract.media import emptied
from contract.openai.items import Item, complete
from contract.openai.responses_answer import ResponseObject
from contract.refusals import Refusal
from contract.requests import MAX_TEXT_BYTES, shortened
from interface.kept import Kept

HOW_KEPT = (
    "Responses are kept in memory, for the holder of the API key that they were made with, if `store` is not false; "
    "the oldest are forgotten. Send the whole conversation as input, with store: false."
)


class KeptResponses:
    """The kept responses of one client, as JSON: each with its input, and with the items of its output by themselves.

    The names of the pieces begin with what they are, so no id of one kind is taken for one of another.
    """

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def keep(self, response: ResponseObject, input: bytes) -> None:
        """Keep a response, and all the items that came before its own (`listed`)."""
        self._kept.put(response_pieces(response) | input_pieces(response.id, input))

    def response(self, id: str) -> bytes:
        """Raises Refusal: 404, it is not kept."""
        return _found(self._kept.get(_response(id)), id)

    def input(self, id: str) -> bytes:
        """The items before those of a response. Raises Refusal: 404, it is not kept."""
        return _found(self._kept.get(_input(id)), id)

    def item(self, id: str) -> bytes | None:
        """An item of a response, None if it is not kept."""
        return self._kept.get(_item(id))

    def replace(self, id: str, response: bytes) -> None:
        """Keep a response as it is now, and its input; all else that was kept with it is forgotten."""
        self._kept.put({_response(id): response, _input(id): self.input(id)})

    def delete(self, id: str) -> None:
        """Raises Refusal: 404, it is not kept."""
        if not self._kept.drop(_response(id)):
            raise _not_found(id)


def response_pieces(response: ResponseObject) -> dict[str, bytes]:
    """What is kept of a response, by names."""
    items = {_item(item.id): to_json(item) for item in response.output}
    return {_response(response.id): to_json(response), **items}


def input_pieces(id: str, input: bytes) -> dict[str, bytes]:
    """What is kept of all that came before a response (`listed`)."""
    return {_input(id): input}


def listed(input: Sequence[Item]) -> bytes:
    """The items before a response, as they are kept. To write many takes long: do so where a body is parsed.

    If they are larger than a text may be, what is in their images is left out, as it is of a large body.
    """
    items = pydantic_core.to_json([complete(item) for item in input])
    return items if len(items) <= MAX_TEXT_BYTES else emptied(items)


def _response(id: str) -> str:
    return f"response {id}"


def _input(id: str) -> str:
    return f"input {id}"


def _item(id: str) -> str:
    return f"item {id}"


def _found(piece: bytes | None, id: str) -> bytes:
    if piece is None:
        raise _not_found(id)
    return piece


def _not_found(id: str) -> Refusal:
    return Refusal(404, f"Response with id {str(shortened(id))!r} not found. {HOW_KEPT}")
