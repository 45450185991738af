"""The content of a message, as the OpenAI and Anthropic APIs send it: a text, or a list of parts that are texts."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from contract.bodies import LenientBody
from contract.refusals import Refusal
from contract.requests import shortened


class TextPart(LenientBody):
    """A piece of a message's content."""

    type: Literal["text", "refusal", "input_text", "output_text"]
    text: str | None = None
    refusal: str | None = None


def text_of(content: Any) -> Any:
    """Return content as one text, with its parts joined by line breaks; leave anything else for the field's own check.

    Raises:
        ValueError: a part is not text; the message says which.
    """
    if not isinstance(content, list):
        return content
    return "\n".join(_text_of_part(part, index) for index, part in enumerate(content))


def text_at(content: Any, where: str) -> str:
    """The same for content that no field checks; `where` is its place in the body.

    Raises:
        Refusal: 400, it is neither a text nor a list of text parts.
    """
    try:
        text = text_of(content)
    except ValueError as error:
        raise Refusal(400, f"{where}: {error}.", param=where) from None
    if not isinstance(text, str):
        raise Refusal(400, f"{where}: Expected a text or a list of text parts.", param=where)
    return text


def _text_of_part(part: Any, index: int) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in ("text", "refusal", "input_text", "output_text"):
        raise ValueError(f"this model takes only text, and part {index} is of type {shortened(kind)!r}")
    text = part.get("refusal" if kind == "refusal" else "text")
    if not isinstance(text, str):
        raise ValueError(f"part {index} is of type {kind!r}, but it holds no text")
    return text


Content = Annotated[str, BeforeValidator(text_of, json_schema_input_type=str | list[TextPart | str])]
"""A text, or a list of text parts, as one text."""
