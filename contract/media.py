"""Bodies that are large because of their images, recordings and files, none of which a model here reads.

Agents send the screenshots of a conversation again with each turn, so such a body may be larger than any text that fits
a context. Their contents are left out before the body is parsed; what is left is held to the limits of other bodies.
"""

from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json, to_json

from contract.content import MEDIA
from contract.refusals import Refusal
from contract.requests import MAX_TEXT_BYTES

HOLDERS = frozenset({"messages", "input", "items", "content", "output", "source"})
"""The fields in which the parts of a conversation lie, in any of the APIs. Calls have their arguments in others."""
CONTENTS = frozenset({"data", "file_data", "image_url", "url"})
"""The fields that hold what is in an image, a recording or a file: as base64, or as a URL of it."""


def without_media(body: bytes) -> bytes:
    """Return the body without what is in its images, recordings and files, if it is large; otherwise as it is.

    Raises:
        Refusal: 413, the rest of it is too large.
        ValueError: it is large and not JSON.
    """
    if len(body) <= MAX_TEXT_BYTES:
        return body
    rest = emptied(body)
    if len(rest) > MAX_TEXT_BYTES:
        raise too_large()
    return rest


def emptied(text: bytes) -> bytes:
    """Return a JSON text without what is in its images, recordings and files. Raises ValueError: it is not JSON."""
    content = from_json(text)
    for part in _media(content):
        _empty(part)
    return to_json(content, inf_nan_mode="constants")


def _media(content: Any) -> Iterator[dict[str, Any]]:
    """The parts of a conversation that are not text."""
    unseen = [content]
    while unseen:
        match unseen.pop():
            case list(parts):
                unseen.extend(parts)
            case {"type": str(kind)} as part if kind in MEDIA:
                yield part
                unseen.append(part.get("source"))  # a document may hold parts, too
            case {"type": "tool_use"}:
                pass
            case dict(fields):
                unseen.extend(fields[name] for name in HOLDERS & fields.keys())


def _empty(part: dict[str, Any]) -> None:
    """Leave out what is in a part. It may lie one level deeper. The text of a document stays."""
    for fields in (part, *(value for value in part.values() if isinstance(value, dict))):
        if fields.get("type") != "text":
            fields |= {name: "" for name in CONTENTS & fields.keys() if isinstance(fields[name], str)}


def too_large() -> Refusal:
    return Refusal(413, f"Expected a body of at most {MAX_TEXT_BYTES} bytes besides images and files, got more")
