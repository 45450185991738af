"""Whole answers: a status, headers and a body, ready for any door to send."""

import json
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True)
class Answer:
    """What a door sends; it adds the request's id."""

    status: int
    body: bytes
    media_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def json_answer(status: int, content: Any, headers: dict[str, str] | None = None) -> Answer:
    return Answer(status, json.dumps(content, ensure_ascii=False).encode(), headers=headers or {})


def model_answer(content: Any) -> Answer:
    """Answer 200 with a dataclass or a pydantic model, without the fields that are None."""
    return Answer(200, to_json(content))


def to_json(content: Any) -> bytes:
    """Return a dataclass or a pydantic model as JSON, without the fields that are None."""
    kind: Any = type(content)
    return _adapter(kind).dump_json(content, exclude_none=True)


@cache
def _adapter(type: Any) -> TypeAdapter[Any]:
    return TypeAdapter(type)
