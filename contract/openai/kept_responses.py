"""Responses that later requests refer to by an id, and do not repeat.

A request continues a conversation by its `previous_response_id`, or names single items of earlier answers: Vercel's AI
SDK does so with all of them, unless it is told otherwise. Responses are kept in the memory of the process that made
them, up to a limit; after that, those that were used least recently are forgotten.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pydantic_core

from contract.openai.responses_answer import OutputItem
from contract.refusals import Refusal
from contract.requests import MAX_BODY_BYTES, shortened

MOST_BYTES = 32 * 2**20
"""Of JSON, for all conversations together."""
HOW_KEPT = (
    "Responses are kept in memory, by the process that made them, if `store` is not false; the oldest are forgotten. "
    "Send the whole conversation as input, with store: false."
)

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Kept:
    conversation: bytes
    items: Sequence[str]
    """The ids of the answer's items."""
    size: int
    """Bytes of the conversation, and of the items by themselves."""


class KeptResponses:
    """Conversations up to an answer, by its id, and the items of answers, by theirs. Any thread may call any method."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._items: dict[str, tuple[str, bytes]] = {}  # with the id of the response that they are of
        self._bytes = 0
        self._lock = threading.Lock()

    def keep(self, response_id: str, input: Sequence[Item], output: Sequence[OutputItem]) -> None:
        """Keep an answer and what came before it."""
        items = {item.id: pydantic_core.to_json(item) for item in output}
        conversation = pydantic_core.to_json([*input, *output])
        kept = _Kept(conversation, list(items), len(conversation) + sum(map(len, items.values())))
        if kept.size > self._most_bytes:
            return
        with self._lock:
            self._kept[response_id] = kept
            self._items |= {item_id: (response_id, item) for item_id, item in items.items()}
            self._bytes += kept.size
            while self._bytes > self._most_bytes:
                self._forget_oldest()

    def conversation(self, response_id: str) -> bytes:
        """The conversation up to an answer and with it, as JSON.

        Raises:
            Refusal: 400, it is not kept.
        """
        with self._lock:
            if (kept := self._kept.get(response_id)) is None:
                message = f"Previous response with id {str(shortened(response_id))!r} not found. {HOW_KEPT}"
                raise Refusal(400, message, param="previous_response_id", code="previous_response_not_found")
            self._kept.move_to_end(response_id)
        return kept.conversation

    def item(self, item_id: str) -> bytes:
        """An item of an answer, as JSON.

        Raises:
            Refusal: 404, it is not kept.
        """
        with self._lock:
            if (found := self._items.get(item_id)) is None:
                raise Refusal(404, f"Item with id {str(shortened(item_id))!r} not found. {HOW_KEPT}", param="input")
            response_id, item = found
            self._kept.move_to_end(response_id)
        return item

    def _forget_oldest(self) -> None:
        _, kept = self._kept.popitem(last=False)
        self._bytes -= kept.size
        for item_id in kept.items:
            del self._items[item_id]


class References:
    """What one request refers to. All of it together may be as long as a body: it is parsed like one."""

    def __init__(self, kept: KeptResponses) -> None:
        self._kept = kept
        self._bytes = 0

    def conversation(self, response_id: str) -> list[Item]:
        """The conversation up to an answer and with it.

        Raises:
            Refusal: 400, it is not kept; 413, the request refers to too much.
        """
        conversation: list[Item] = self._parsed(self._kept.conversation(response_id))
        return conversation

    def item(self, item_id: str) -> Item:
        """An item of an answer.

        Raises:
            Refusal: 404, it is not kept; 413, the request refers to too much.
        """
        item: Item = self._parsed(self._kept.item(item_id))
        return item

    def _parsed(self, found: bytes) -> Any:
        self._bytes += len(found)
        if self._bytes > MAX_BODY_BYTES:
            raise Refusal(413, f"Expected to refer to at most {MAX_BODY_BYTES} bytes of earlier responses, got more")
        return json.loads(found)


KEPT = KeptResponses()
"""The responses that this process has made."""
