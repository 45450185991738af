"""The objects of another server's stream of completions, checked: the fields that are read have these types."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from backends.relayed import EngineLost
from backends.replies import LONGEST_REASON

Count = Annotated[int, Field(ge=0)]


class Details(BaseModel):
    cached_tokens: Count | None = None


class Usage(BaseModel):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: Details | None = None


class Choice(BaseModel):
    text: str | None
    token_ids: list[int] | None = None
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None


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
