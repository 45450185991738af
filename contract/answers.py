"""Whole answers: a status, headers and a body, ready for any door to send."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import pydantic_core
from pydantic import ConfigDict, TypeAdapter

SAFE_HEADERS = {"x-content-type-options": "nosniff"}
"""With every answer: a browser takes its media type for what it says."""


def id_headers(request_id: str) -> dict[str, str]:
    """The request's id where each client looks for it: OpenAI's in the first header, Anthropic's in the second."""
    return {"x-request-id": request_id, "request-id": request_id}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a door sends, once it has `named` the request."""

    status: int
    body: bytes
    media_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    body_naming: Callable[[str], bytes] | None = None
    """Makes the body with the request's id in it, in an API that has it there."""

    def named(self, request_id: str) -> "Answer":
        """Return the answer to the request of this id."""
        body = self.body if self.body_naming is None else self.body_naming(request_id)
        return replace(self, body=body, headers=self.headers | id_headers(request_id))


class Wire:
    """A dataclass that is sent as it is: a field that is None is null on the wire.

    Only a field that has its default is left out, so give a default to those fields alone that may be absent.
    """

    __slots__ = ()
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)


def json_answer(status: int, content: Any, headers: dict[str, str] | None = None) -> Answer:
    return Answer(status, json.dumps(content, ensure_ascii=False).encode(), headers=headers or {})


def model_answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """Answer with a dataclass or a pydantic model; see `to_json`."""
    return Answer(status, to_json(content), headers=headers or {})


def to_json(content: Any) -> bytes:
    """Return content as JSON: a dict as it is, a dataclass or a model without the fields that are None.

    A `Wire` says itself what it sends.
    """
    kind: Any = type(content)
    return _serializer_of(kind)(content)


@cache
def _serializer_of(kind: type) -> Callable[[Any], bytes]:
    """What makes JSON of a type. (A stream calls it for each token, so it is not looked up through the adapter.)"""
    if kind is dict:
        return pydantic_core.to_json
    is_wire = issubclass(kind, Wire)
    return partial(TypeAdapter(kind).serializer.to_json, exclude_none=not is_wire, exclude_defaults=is_wire)
