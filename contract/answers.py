"""Whole answers: a status, headers and a body, ready for any door to send."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter

T = TypeVar("T")


SAFE_HEADERS = {"x-content-type-options": "nosniff"}
"""With every answer: a browser takes its media type for what it says."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a door sends; it adds the request's id."""

    status: int
    body: bytes
    media_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


class Wire:
    """A dataclass that is sent as it is: a field that is None is null on the wire, unless it is `Omittable`."""

    __slots__ = ()
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)


def _is_none(value: object) -> bool:
    return value is None


Omittable = Annotated[T | None, Field(exclude_if=_is_none)]
"""A field that is left out when it is None."""


def json_answer(status: int, content: Any, headers: dict[str, str] | None = None) -> Answer:
    return Answer(status, json.dumps(content, ensure_ascii=False).encode(), headers=headers or {})


def model_answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """Answer with a dataclass or a pydantic model; see `to_json`."""
    return Answer(status, to_json(content), headers=headers or {})


def to_json(content: Any) -> bytes:
    """Return a dataclass or a pydantic model as JSON. Fields that are None are left out, except those of a `Wire`."""
    kind: Any = type(content)
    return _serializer_of(kind)(content)


@cache
def _serializer_of(kind: type) -> Callable[[Any], bytes]:
    """What makes JSON of a type. (A stream calls it for each token, so it is not looked up through the adapter.)"""
    return partial(TypeAdapter(kind).serializer.to_json, exclude_none=not issubclass(kind, Wire))
