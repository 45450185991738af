"""Responses that later requests refer to by an id, and do not repeat.

A request continues a conversation by its `previous_response_id`, or names single items of earlier answers: Vercel's AI
SDK does so with all of them, unless it is told otherwise. `contract.openai.responses_by_id` shows and deletes them.
"""

import json
from collections.abc import Sequence

import pydantic_core

from contract.answers import to_json
from contract.media import emptied
from contract.openai.items import Item, complete
from contract.openai.kept_conversations import KeptConversations
from contract.openai.responses_answer import ResponseObject
from contract.refusals import Refusal
from contract.requests import MAX_TEXT_BYTES, shortened
from interface.kept import Kept

HOW_KEPT = (
    "Responses are kept in memory, for the holder of the API key that they were made with, if `store` is not false; "
    "the oldest are forgotten. Send the whole conversation as input, with store: false."
)

MOST_BYTES = 4 * MAX_TEXT_BYTES
"""Of a conversation that a request goes on with. It may be larger than a body, as it came in many of them, with the
fields of each item written out. Most contexts are shorter."""


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


class References:
    """What one request refers to. Single items together may be as long as a body: they stand for a part of it."""

    def __init__(self, kept: Kept) -> None:
        self._kept = KeptResponses(kept)
        self._conversations = KeptConversations(kept)
        self._bytes = 0

    def conversation(self, response_id: str) -> list[Item]:
        """The conversation up to a response and with it.

        Raises:
            Refusal: 400, it is not kept or has not ended; 413, it is too long.
        """
        try:
            input, response = self._kept.input(response_id), self._kept.response(response_id)
        except Refusal:
            message = f"Previous response with id {str(shortened(response_id))!r} not found. {HOW_KEPT}"
            code = "previous_response_not_found"
            raise Refusal(400, message, param="previous_response_id", code=code) from None
        _check_length([input, response])
        before, previous = json.loads(input), json.loads(response)
        if previous["status"] == "in_progress":
            message = f"Previous response with id {str(shortened(response_id))!r} has not ended yet."
            raise Refusal(400, message, param="previous_response_id")
        return [*before, *previous["output"]]

    def kept_conversation(self, id: str) -> list[Item]:
        """The items of a conversation, without those of its images that are too many.

        Raises:
            Refusal: 404, it is not kept; 413, it is too long.
        """
        pieces = self._conversations.fitted(id, MOST_BYTES)
        _check_length(pieces)
        return [json.loads(piece) for piece in pieces]

    def item(self, item_id: str) -> Item:
        """An item of an answer.

        Raises:
            Refusal: 404, it is not kept; 413, the request refers to too much.
        """
        if (found := self._kept.item(item_id)) is None:
            raise Refusal(404, f"Item with id {str(shortened(item_id))!r} not found. {HOW_KEPT}", param="input")
        self._bytes += len(found)
        if self._bytes > MAX_TEXT_BYTES:
            raise Refusal(413, f"Expected to refer to at most {MAX_TEXT_BYTES} bytes of earlier items, got more")
        item: Item = json.loads(found)
        return item


def _check_length(pieces: Sequence[bytes]) -> None:
    """Raises Refusal: 413, a conversation is too long."""
    if (size := sum(map(len, pieces))) > MOST_BYTES:
        message = f"Expected to go on with a conversation of at most {MOST_BYTES} bytes, got {size}; sum it up"
        raise Refusal(413, f"{message}, or begin another with its last items.")


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
