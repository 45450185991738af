"""Whole answers: a status, headers and a body, ready for any door to send."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import pydantic_core
from pydantic import ConfigDict, TypeAdapter

SAFE_HEADERS = {"x-content-type-options": "nosniff"}
"""Headers of every answer: a browser must not guess another media type than the one that is sent."""

NO_CONTENT = 204
"""The status of an answer that has no body, and no headers that describe one."""


def id_headers(request_id: str) -> dict[str, str]:
    """The request's id in the header where OpenAI's clients look for it, and in the one where Anthropic's do."""
    return {"x-request-id": request_id, "request-id": request_id}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a door sends, after `for_request`."""

    status: int
    body: bytes
    media_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    body_with_id: Callable[[str], bytes] | None = None
    """Makes the body for a request's id, in an API whose bodies contain it."""

    def for_request(self, request_id: str) -> "Answer":
        """Return the answer with all its headers, and with the request's id in them, and in its body if the API has
        it there.
        """
        body = self.body if self.body_with_id is None else self.body_with_id(request_id)
        headers = SAFE_HEADERS | self.headers | id_headers(request_id)
        if self.status != NO_CONTENT:
            headers |= {"content-type": self.media_type, "content-length": str(len(body))}
        return replace(self, body=body, headers=headers)


class Wire:
    """A base for dataclasses whose None is sent as null.

    A field is left out only if its value is its default, so only fields that may be absent should have one.
    """

    __slots__ = ()
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)


def json_answer(status: int, content: Any) -> Answer:
    return Answer(status, json.dumps(content, ensure_ascii=False).encode())


def model_answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """Answer with a dataclass or a pydantic model; see `to_json`."""
    return Answer(status, to_json(content), headers=headers or {})


def to_json(content: Any) -> bytes:
    """Return content as JSON: a dict as it is, a dataclass or model without the fields that are None, a `Wire` as
    its class says.
    """
    kind: Any = type(content)
    return _serializer_of(kind)(content)


@cache
def _serializer_of(kind: type) -> Callable[[Any], bytes]:
    """The function that makes JSON of a type. A stream calls it for each token, so each is looked up only once."""
    if kind is dict:
        return pydantic_core.to_json
    is_wire = issubclass(kind, Wire)
    return partial(TypeAdapter(kind).serializer.to_json, exclude_none=not is_wire, exclude_defaults=is_wire)
