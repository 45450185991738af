"""Conversations that this server keeps: items that grow with each response that names the conversation.

`contract.openai.conversations` has their endpoints, and `conversation` of `/v1/responses` goes on with one.
"""

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from contract.answers import to_json
from contract.media import emptied
from contract.openai.items import Item, complete
from contract.refusals import Refusal
from contract.requests import shortened
from interface.kept import Kept

HOW_KEPT = (
    "Conversations are kept in memory, for the holder of the API key that they were made with; those that are not used "
    "are forgotten."
)
DELETED = b""
"""Stands in the place of an item that was deleted."""


class KeptConversations:
    """The kept conversations of one client, as JSON.

    A conversation and its items are pieces that are kept together. Items are found in the order in which they came; and
    no name of one kind of piece is an id of another's.
    """

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def create(self, metadata: Mapping[str, str], items: Sequence[Item]) -> Item:
        """Begin a conversation, and return it without its items."""
        id = f"conv_{uuid.uuid4().hex}"
        head = {"id": id, "object": "conversation", "created_at": int(time.time()), "metadata": dict(metadata)}
        self._kept.put({_head(id): to_json(head), **_pieces(id, with_ids(items))})
        return head

    def conversation(self, id: str) -> Item:
        """Raises Refusal: 404, it is not kept."""
        if (piece := self._kept.get(_head(id))) is None:
            message = f"Conversation with id {str(shortened(id))!r} not found. {HOW_KEPT}"
            raise Refusal(404, message, param="conversation")
        head: Item = json.loads(piece)
        return head

    def update(self, id: str, metadata: Mapping[str, str]) -> Item:
        """Replace the metadata, and return the conversation. Raises Refusal: 404, it is not kept."""
        head = self.conversation(id) | {"metadata": dict(metadata)}
        self._kept.put({_head(id): to_json(head)}, beside=_head(id))
        return head

    def delete(self, id: str) -> None:
        """Raises Refusal: 404, it is not kept."""
        self.conversation(id)
        self._kept.drop(_head(id))

    def fitted(self, id: str, most_bytes: int) -> list[bytes]:
        """The items as they are kept, the oldest first, without what is in images that are too many.

        If the items have more than `most_bytes` together, the oldest images are emptied, also in what is kept: no
        model here reads them, and a conversation that grew without a limit would find no room to be kept.

        Raises:
            Refusal: 404, the conversation is not kept.
        """
        found = dict(self._found(id))
        too_many = sum(map(len, found.values())) - most_bytes
        without_images: dict[str, bytes] = {}
        for name, piece in found.items():
            if too_many <= 0:
                break
            rest = emptied(piece)
            if len(rest) < len(piece):
                without_images[name] = rest
                too_many -= len(piece) - len(rest)
        if without_images:
            self._kept.put(without_images, beside=_head(id))
        return list((found | without_images).values())

    def items(self, id: str) -> list[Item]:
        """The items, the oldest first. Raises Refusal: 404, the conversation is not kept."""
        return [json.loads(piece) for _, piece in self._found(id)]

    def item(self, id: str, item_id: str) -> Item:
        """Raises Refusal: 404, the conversation is not kept, or has no such item."""
        return self._item(id, item_id)[1]

    def add(self, id: str, items: Sequence[Item]) -> None:
        """Add items, each with an id that no other has; to a conversation that is gone, none."""
        self._kept.put(_pieces(id, items), beside=_head(id))

    def delete_item(self, id: str, item_id: str) -> None:
        """Raises Refusal: 404, the conversation is not kept, or has no such item."""
        name, _ = self._item(id, item_id)
        self._kept.put({name: DELETED}, beside=_head(id))

    def _found(self, id: str) -> list[tuple[str, bytes]]:
        self.conversation(id)
        return [found for found in self._kept.find(f"said in {id} ").items() if found[1] != DELETED]

    def _item(self, id: str, item_id: str) -> tuple[str, Item]:
        """An item, and the name of its piece."""
        for name, piece in self._found(id):
            item: Item = json.loads(piece)
            if item["id"] == item_id:
                return name, item
        raise Refusal(404, f"Item with id {str(shortened(item_id))!r} not found in this conversation.")


def with_ids(items: Sequence[Item], others: Iterable[Item] = ()) -> list[Item]:
    """Return items as they are listed. One whose id another has, or one of `others`, gets a new one."""
    known = {other["id"] for other in others if "id" in other}
    return list(_with_new_ids(items, known))


def _with_new_ids(items: Sequence[Item], known: set[Any]) -> Iterator[Item]:
    for item in items:
        whole = complete(item)
        if whole["id"] in known:
            whole = complete({**item, "id": None})
        known.add(whole["id"])
        yield whole


def _head(id: str) -> str:
    return f"conversation {id}"


def _pieces(id: str, items: Sequence[Item]) -> dict[str, bytes]:
    return {f"said in {id} {uuid.uuid4().hex}": to_json(item) for item in items}
