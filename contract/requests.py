"""From a body's bytes to a checked request, or to a refusal that lists all that is wrong with it.

The refusals have FastAPI's shape, `{"detail": [{"type", "loc", "msg", "input"}]}`, which clients already know.
"""

import json
import re
import uuid
from typing import Any

from pydantic import Field, ValidationError

from contract.answers import json_answer
from contract.refusals import Refusal
from interface.request import GenerationRequest

MAX_BODY_BYTES = 1024 * 1024
MAX_PROBLEMS = 100
MAX_ECHO = 200
"""Characters of a wrong input, or of the name of an unknown field, that a refusal repeats."""

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class GenerateBody(GenerationRequest):
    """The body of `POST /generate`: what to generate, and how to answer."""

    stream: bool = Field(default=False, description="Send each token as it is made, as server-sent events.")


def request_id(from_client: str | None) -> str:
    """The client's own X-Request-Id if it is fit for a header and a log line, else a new one."""
    if from_client is not None and _SANE_REQUEST_ID.fullmatch(from_client):
        return from_client
    return uuid.uuid4().hex


def check_media_type(content_type: str | None) -> None:
    """Refuse, with 415, a body that does not call itself JSON."""
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not re.fullmatch(r"application/[^/]+\+json", media_type):
        came = repr(content_type[:MAX_ECHO]) if content_type else "none"
        raise Refusal(json_answer(415, {"detail": f"Expected Content-Type application/json, got {came}"}))


def body_too_large() -> Refusal:
    return Refusal(json_answer(413, {"detail": f"Expected a body of at most {MAX_BODY_BYTES} bytes, got more"}))


def parse_generate(body: bytes) -> GenerateBody:
    """Parse and check a body of `POST /generate`.

    Raises:
        Refusal: 422, with every problem in it (at most `MAX_PROBLEMS`).
    """
    try:
        return GenerateBody.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
    problems: list[dict[str, Any]] = [
        {"type": one["type"], "loc": ["body", *map(_cut, one["loc"])], "msg": one["msg"], "input": _cut(one["input"])}
        for one in found[:MAX_PROBLEMS]
    ]
    if len(found) > MAX_PROBLEMS:
        unlisted = len(found) - MAX_PROBLEMS
        problems.append({"type": "too_many", "loc": ["body"], "msg": f"{unlisted} more problems", "input": None})
    raise Refusal(json_answer(422, {"detail": problems}))


def _cut(value: Any) -> Any:
    """A wrong input as it came if it is short and JSON can say it, else the beginning of how it looks."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    text = value if isinstance(value, str) else repr(value)
    if len(text) > MAX_ECHO:
        return text[:MAX_ECHO] + "…"
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:  # NaN or an infinity: the parser takes them, though JSON has none
        return text
    return value
