"""Whole answers: a status, headers and a body, ready for any door to send."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from interface.request import Counters, Failed, Finished, Token, answer


@dataclass(frozen=True, slots=True)
class Answer:
    """What a door sends: all of it but the request's id."""

    status: int
    body: bytes
    media_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def json_answer(status: int, content: Any, headers: dict[str, str] | None = None) -> Answer:
    return Answer(status, json.dumps(content, ensure_ascii=False).encode(), headers=headers or {})


def completion(tokens: Sequence[Token], end: Finished | Failed) -> Answer:
    """The answer to a generation that was not streamed."""
    if isinstance(end, Failed):
        return unavailable(end.message) if end.kind == "shutdown" else json_answer(500, {"detail": end.message})
    return json_answer(200, answer(tokens, end))


def health(status: str, model: str, counters: Counters) -> Answer:
    """200 when `status` is "ok"; any other status is the reason for a 503."""
    content = {
        "status": status,
        "model": model,
        "running": counters.running,
        "waiting": counters.waiting,
        "generated_tokens": counters.generated_tokens,
    }
    return json_answer(200 if status == "ok" else 503, content)


def no_such_path() -> Answer:
    return json_answer(404, {"detail": "Not Found"})


def no_such_method(allowed: Iterable[str]) -> Answer:
    return json_answer(405, {"detail": "Method Not Allowed"}, {"allow": ", ".join(sorted(allowed))})


def unavailable(reason: str) -> Answer:
    """No engine, or no place in its queue, just now: worth another try."""
    return json_answer(503, {"detail": reason}, {"retry-after": "1"})


def internal_error() -> Answer:
    """A mistake of the service's own; what it was is in its log."""
    return json_answer(500, {"detail": "Internal Server Error"})
