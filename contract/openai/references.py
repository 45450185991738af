"""What a request refers to by ids, and does not repeat: an earlier response, a conversation, single items.

A request continues a conversation by its `previous_response_id`, or names single items of earlier answers: Vercel's AI
SDK does so with all of them, unless it is told otherwise.
"""

import json
from collections.abc import Iterator, Sequence

from contract.openai.items import Item
from contract.openai.kept_conversations import KeptConversations
from contract.openai.kept_responses import HOW_KEPT, KeptResponses
from contract.openai.running_responses import RunningResponses
from contract.refusals import Refusal
from contract.requests import MAX_TEXT_BYTES, shortened
from interface.kept import Kept

MOST_BYTES = 4 * MAX_TEXT_BYTES
"""The largest conversation that a request goes on with. It may be larger than a body, as it came in many of them, with
the fields of each item written out. Most contexts are shorter."""


class References:
    """What one request refers to. Single items together may be as long as a body: they stand for a part of it."""

    def __init__(self, kept: Kept) -> None:
        self._kept = KeptResponses(kept)
        self._running = RunningResponses(kept)
        self._conversations = KeptConversations(kept)
        self._bytes = 0

    def conversation(self, response_id: str) -> list[Item]:
        """The conversation up to a response and with it.

        Raises:
            Refusal: 400, it is not kept or has not ended; 413, it is too long.
        """
        try:
            input, response = self._kept.input(response_id), self._running.response(response_id)
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

    def kept_conversation(self, id: str) -> Iterator[Item]:
        """The items of a conversation, without those of its images that are too many. Each is read as it is taken.

        Raises:
            Refusal: 404, it is not kept; 413, it is too long.
        """
        pieces = self._conversations.fitted(id, MOST_BYTES)
        _check_length(pieces)
        return map(json.loads, pieces)

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
