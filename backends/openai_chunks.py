"""The objects of another server's stream of completions, checked: the fields that are read have these types."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError
from pydantic_core import to_json

from backends.relayed import EngineLost
from backends.replies import LONGEST_REASON

Count = Annotated[int, Field(ge=0)]


class Details(BaseModel):
    cached_tokens: Count | None = None


class Usage(BaseModel):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: Details | None = None


Content = TypeVar("Content")


def _whole(content: Content) -> Content:
    try:
        to_json(content)
    except ValueError:
        raise ValueError("It has half a character, which no answer can carry") from None
    return content


class Choice(BaseModel):
    text: str | None
    """May begin or end with half a character, see `backends.split_characters`."""
    token_ids: list[int] | None = None
    logprobs: Annotated[dict[str, Any], AfterValidator(_whole)] | None = None
    finish_reason: str | None = None
    stop_reason: Annotated[str | int, AfterValidator(_whole)] | None = None


class Chunk(BaseModel):
    choices: list[Choice] | None = None
    usage: Usage | None = None


def parse_chunk(reply: Mapping[str, Any], path: str) -> Chunk:
    """Raises EngineLost if a field that is read is missing, or of another type."""
    try:
        return Chunk.model_validate(reply)
    except ValidationError as error:
        wrong = error.errors()[0]
        name = ".".join(map(str, wrong["loc"]))
        got = str(dict(reply))[:LONGEST_REASON]
        raise EngineLost(f"expected another {name} in what {path} answers ({wrong['msg']}), got {got}") from None
