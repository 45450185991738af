"""What doors need of any request, whatever its endpoint: its id, its media type, its size, its path."""

import json
import re
import uuid
from typing import Any

from contract.endpoints import Endpoint
from contract.refusals import Refusal

MAX_BODY_BYTES = 32 * 1024 * 1024
"""The largest body with its images and files: as much as Anthropic's API takes."""
MAX_TEXT_BYTES = 1024 * 1024
"""The largest body without them."""
MOST_DIGITS = 18
"""The most digits of a Content-Length: Python refuses to parse thousands of them."""
MAX_ECHO = 200
"""Characters of a wrong input, or of the name of an unknown field, that a refusal repeats."""

FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")

_VALID_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def request_id(from_client: str | None) -> str:
    """Return the client's own X-Request-Id if it can be used in a header and a log line, else a new one."""
    if from_client is not None and _VALID_REQUEST_ID.fullmatch(from_client):
        return from_client
    return uuid.uuid4().hex


def route_path(path: str, root_path: str) -> str:
    """Return the path below `root_path`, under which a proxy may have mounted the application."""
    is_below = path == root_path or path.startswith(root_path + "/")
    return path.removeprefix(root_path) if is_below else path


def check_head(endpoint: Endpoint, content_encoding: str | None, content_type: str | None) -> None:
    """Refuse, before it is read, a body that no endpoint accepts. Raises Refusal."""
    if endpoint.request is not None:
        check_encoding(content_encoding)
        check_media_type(content_type)


def check_encoding(content_encoding: str | None) -> None:
    """Refuse, with 415, a body that is compressed; RFC 9110 has the answer say what would be accepted."""
    encoding = (content_encoding or "identity").strip().lower()
    if encoding != "identity":
        message = f"Expected a body without Content-Encoding, got {encoding[:MAX_ECHO]!r}"
        raise Refusal(415, message, headers={"accept-encoding": "identity"})


def check_media_type(content_type: str | None) -> None:
    """Refuse, with 415, a body whose Content-Type is not JSON."""
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not re.fullmatch(r"application/[^/]+\+json", media_type):
        came = repr(content_type[:MAX_ECHO]) if content_type else "none"
        hint = "; curl needs -H 'content-type: application/json'" if media_type in FORMS else ""
        raise Refusal(415, f"Expected Content-Type application/json, got {came}{hint}")


def announced_bytes(content_length: str | None) -> int | None:
    """Return the length of a body according to Content-Length; None if that is missing or empty.

    Raises:
        Refusal: 400, it is not a number; 413, it is too large.
    """
    if not content_length:
        return None
    if not content_length.isdecimal():
        raise Refusal(400, f"Expected Content-Length to be a number of bytes, got {content_length[:MAX_ECHO]!r}")
    if len(content_length) > MOST_DIGITS or int(content_length) > MAX_BODY_BYTES:
        raise body_too_large()
    return int(content_length)


def length_required() -> Refusal:
    return Refusal(411, "Expected a body with Content-Length, got one in chunks, whose end this server does not tell")


def body_too_large() -> Refusal:
    return Refusal(413, f"Expected a body of at most {MAX_BODY_BYTES} bytes, got more")


def body_too_slow(seconds: float) -> Refusal:
    return Refusal(408, f"Expected the whole body within {seconds:g} s")


def shortened(value: Any) -> Any:
    """Return a wrong input unchanged if it is short and valid JSON, else the beginning of its text."""
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
