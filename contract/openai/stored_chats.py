"""Chat completions that are stored, as `store: true` asks for; `contract.openai.chats_by_id` shows and deletes them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contract.answers import to_json
from contract.openai.chat_answer import ChatCompletion
from contract.refusals import Refusal
from contract.requests import shortened
from interface.kept import Kept

HOW_STORED = (
    "Chat completions are stored in memory, for the holder of the API key that they were made with, if `store` is "
    "true; the oldest are forgotten."
)

Content = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Listed:
    """What is known of a stored completion without reading all of it."""

    id: str
    model: str
    metadata: Mapping[str, str]


class StoredChats:
    """The stored chat completions of one client, as JSON: each with its metadata, and with the messages before it.

    Three pieces are kept of each, together. One of them is for the list of all.
    """

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def store(self, completion: ChatCompletion, metadata: Mapping[str, str], messages: Sequence[Content]) -> None:
        content = json.loads(to_json(completion)) | {"metadata": dict(metadata)}
        shown = [_shown(message, f"{completion.id}-{number}") for number, message in enumerate(messages)]
        messages_piece = {f"chat messages {completion.id}": to_json({"messages": shown})}
        self._kept.put(self._pieces(content) | messages_piece)

    def completion(self, id: str) -> Content:
        """Raises Refusal: 404, it is not stored."""
        return self._read(f"chat completion {id}", id)

    def messages(self, id: str) -> list[Content]:
        """Raises Refusal: 404, it is not stored."""
        messages: list[Content] = self._read(f"chat messages {id}", id)["messages"]
        return messages

    def all(self) -> Iterator[Listed]:
        """The oldest comes first."""
        for piece in self._kept.find("listed chat ").values():
            yield Listed(**json.loads(piece))

    def update(self, id: str, metadata: Mapping[str, str]) -> Content:
        """Replace the metadata, and return the completion. Raises Refusal: 404, it is not stored."""
        content = self.completion(id) | {"metadata": dict(metadata)}
        self._kept.put(self._pieces(content), beside=f"chat completion {id}")
        return content

    def delete(self, id: str) -> None:
        """Raises Refusal: 404, it is not stored."""
        if not self._kept.drop(f"chat completion {id}"):
            raise _not_found(id)

    def _pieces(self, content: Content) -> dict[str, bytes]:
        listed = {name: content[name] for name in ("id", "model", "metadata")}
        return {
            f"chat completion {content['id']}": to_json(content),
            f"listed chat {content['id']}": to_json(listed),
        }

    def _read(self, name: str, id: str) -> Content:
        if (piece := self._kept.get(name)) is None:
            raise _not_found(id)
        content: Content = json.loads(piece)
        return content


def _shown(message: Content, id: str) -> Content:
    """A message as it is listed: with an id, and its parts, if it has some, next to their text."""
    content = message.get("content")
    if not isinstance(content, list):
        return {**message, "id": id, "content": content, "content_parts": None}
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    text = "\n".join(part.get("text") or part.get("refusal") or "" for part in parts)
    return {**message, "id": id, "content": text, "content_parts": parts}


def _not_found(id: str) -> Refusal:
    return Refusal(404, f"Chat completion with id {str(shortened(id))!r} not found. {HOW_STORED}")
