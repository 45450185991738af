"""The content of a message, as the OpenAI and Anthropic APIs send it: a text, or a list of parts that are texts.

No model here can read images, sound or files. In a question they are refused: the answer would be
about something that the model has not seen. Elsewhere, in the result of a tool for example, a note stands in for them,
so that the conversation goes on and the model knows what it has missed.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator

from contract.bodies import LenientBody
from contract.refusals import Refusal
from contract.requests import shortened

MEDIA: Mapping[str, str] = {
    "image": "An image",
    "image_url": "An image",
    "input_image": "An image",
    "computer_screenshot": "A screenshot",
    "audio": "A recording",
    "audio_url": "A recording",
    "input_audio": "A recording",
    "video": "A video",
    "video_url": "A video",
    "document": "A document",
    "file": "A file",
    "input_file": "A file",
    "container_upload": "A file",
}
"""The types of parts that are not text, in any of the APIs, and what the model is told about them."""


TextType = Literal["text", "refusal", "input_text", "output_text"]


class TextPart(LenientBody):
    """A piece of a message's content."""

    type: TextType
    text: str | None = None
    refusal: str | None = None


class MediaPart(LenientBody):
    """An image, sound or a file. A note stands in for it; in a question it is refused."""

    type: Literal["image_url", "input_image", "input_audio", "file", "input_file"]


def _check(content: Any) -> Any:
    if not isinstance(content, str | list):
        raise ValueError("Expected a text or a list of text parts")
    return content


Content = Annotated[Any, BeforeValidator(_check, json_schema_input_type=str | list[TextPart | MediaPart | str])]
"""A text, or a list of parts, which `text_at` makes one text."""


def text_at(content: Any, where: str, *, notes_media: bool = False) -> str:
    """Return content as one text, with its parts joined by line breaks.

    Args:
        where: its place in the body.
        notes_media: let a note stand in for what is not text, instead of refusing it.

    Raises:
        Refusal: 400, it is neither a text nor a list of parts, or a part is not text; the message says which.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Refusal(400, f"{where}: Expected a text or a list of text parts.", param=where)
    try:
        return "\n".join(_text_of_part(part, index, notes_media) for index, part in enumerate(content))
    except ValueError as error:
        raise Refusal(400, f"{where}: {error}.", param=where) from None


def _text_of_part(part: Any, index: int, notes_media: bool) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if notes_media and (note := note_of(part)) is not None:
        return note
    if kind not in get_args(TextType):
        raise ValueError(f"this model takes only text, and part {index} is of type {shortened(kind)!r}")
    text = part.get("refusal" if kind == "refusal" else "text")
    if not isinstance(text, str):
        raise ValueError(f"part {index} is of type {kind!r}, but it holds no text")
    return text


def note_of(part: Any) -> str | None:
    """What stands in for a part that is not text; None for text."""
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or kind not in MEDIA:
        return None
    return f"[{MEDIA[kind]} was here. You take only text, and cannot see it.]"


def first_of_question(roles: Sequence[str]) -> int:
    """Return the index of the first message of the question that is to be answered.

    These are the messages after the assistant's last. After the results of tools there is none: what clients send there
    as the user's are the images and files that tools have returned.
    """
    first = len(roles)
    while first and roles[first - 1] not in ("assistant", "tool"):
        first -= 1
    return len(roles) if first and roles[first - 1] == "tool" else first
