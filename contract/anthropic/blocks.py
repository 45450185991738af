"""The text of content blocks: texts, documents and search results that are text, and the state of a browser."""

import json
from collections.abc import Mapping
from typing import Any

from contract.content import note_of, text_at
from contract.refusals import Refusal
from contract.requests import shortened


def text_of_block(block: Any, where: str, expected: str, *, notes_media: bool) -> str:
    """Return the text of a block.

    Args:
        where: its place in the body.
        expected: which blocks may stand here.
        notes_media: let a note stand in for what is not text, instead of refusing it.

    Raises:
        Refusal: 400, it has no text, or asks for citations.
    """
    match block:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "tool_reference", "tool_name": str(name)}:
            return name  # the tool is offered already, also if its loading could be deferred
        case {"type": "document", "source": {"type": "text", "data": str(text)}}:
            return _headed(block, ("title", "context"), text, where)
        case {"type": "document", "source": {"type": "content", "content": content}}:
            text = text_at(content, f"{where}.source.content", notes_media=notes_media)
            return _headed(block, ("title", "context"), text, where)
        case {"type": "search_result", "content": list(content)}:
            text = text_at(content, f"{where}.content", notes_media=notes_media)
            return _headed(block, ("title", "source"), text, where)
        case {"type": "browser_state", "tabs": list()}:
            shown = {name: block[name] for name in ("tabs", "state_changes") if name in block}
            return json.dumps(shown, ensure_ascii=False)
    if notes_media and (note := note_of(block)) is not None:
        return note
    raise unknown_block(block, where, expected)


def unknown_block(block: Any, where: str, expected: str) -> Refusal:
    came = block.get("type") if isinstance(block, dict) else type(block).__name__
    if note_of(block) is not None:
        return Refusal(400, f"{where}: this model reads text only, and this is a block of type {came!r}", param=where)
    message = f"{where}: expected a complete block of type {expected}, got type {shortened(came)!r}"
    return Refusal(400, message, param=where)


def _headed(block: Mapping[str, Any], names: tuple[str, ...], text: str, where: str) -> str:
    """A block's text after the fields that say what it is."""
    match block.get("citations"):
        case {"enabled": True}:
            raise Refusal(400, f"{where}.citations: this model cites nothing; leave them out", param=where)
    heads = [block.get(name) for name in names]
    return "\n".join([*(head for head in heads if isinstance(head, str) and head), text])
