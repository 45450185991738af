"""Checks every body before its endpoint parses it: that it is text, and that it is not too large to parse."""

import codecs
from dataclasses import replace

from pydantic_core import from_json

from contract.endpoints import Call, Endpoint, Incoming, Question
from contract.media import too_large, without_media
from contract.refusals import Problem, Refusal
from contract.requests import MAX_TEXT_BYTES

MAX_FIELDS = 4096
"""Members of a body, or of an object directly in it. Reporting an unknown member costs more than sending one."""
MAX_STRINGS = 32_768
"""Strings in a body, including the names of fields. A megabyte could hold 250,000, each of which becomes an object."""
MAX_CONTAINERS = 16_384
"""Lists and objects in a body."""
COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\x78\x9c": "deflate"}
"""The first bytes of compressed bodies, to tell a client that has sent one without Content-Encoding."""


def parse(endpoint: Endpoint, incoming: Incoming) -> Call | Question:
    """Parse and check a body.

    Raises:
        Refusal: it is not JSON in UTF-8, has too many fields, or is not what the endpoint expects.
    """
    if endpoint.request is not None:
        if (complaint := encoding_problem(incoming.body)) is not None:
            raise _no_json(endpoint, complaint)
        check_counts(incoming.body)
        try:
            incoming = replace(incoming, body=without_media(incoming.body))
        except ValueError as error:
            raise _no_json(endpoint, f"The body is not valid: Invalid JSON: {error}") from None
        check_fields(incoming.body)
    return endpoint.parse(incoming)


def _no_json(endpoint: Endpoint, complaint: str) -> Refusal:
    problem = Problem("json_invalid", ["body"], complaint, None)
    return Refusal(422 if endpoint.problems else 400, complaint, problems=[problem])


def encoding_problem(body: bytes) -> str | None:
    """Return why a body is not JSON in UTF-8, or None. A JSON parser would only name a column."""
    for magic, name in COMPRESSED.items():
        if body.startswith(magic):
            return f"Expected plain JSON, got a body that is compressed with {name}"
    if body.startswith(codecs.BOM_UTF8):
        return "Expected JSON without a byte order mark, got one; save the file as UTF-8 without BOM"
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "Expected JSON in UTF-8, got UTF-16"
    if b"\0" in body:
        return f"Expected JSON in UTF-8, got a byte that is zero at {body.index(0)}; is it UTF-16?"
    try:
        body.decode()
    except UnicodeDecodeError as error:
        byte = body[error.start]
        return f"Expected JSON in UTF-8, got the byte {byte:#04x} at {error.start}; is it latin-1?"
    return None


def check_counts(body: bytes) -> None:
    """Refuse, with 413, a body of so many parts that parsing it would block the interpreter for long.

    The parts are counted without parsing: once escaped quotes are removed, every second quote ends a string.
    """
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in body else body
    strings = unescaped.count(b'"') // 2
    if strings > MAX_STRINGS:
        raise Refusal(413, f"Expected at most {MAX_STRINGS} strings in the body, got {strings}")
    if len(unescaped) <= MAX_TEXT_BYTES and unescaped.count(b"[") + unescaped.count(b"{") <= MAX_CONTAINERS:
        return
    outside = b"".join(unescaped.split(b'"')[::2])
    containers = outside.count(b"[") + outside.count(b"{")
    if containers > MAX_CONTAINERS:
        raise Refusal(413, f"Expected at most {MAX_CONTAINERS} lists and objects in the body, got {containers}")
    if len(outside) > MAX_TEXT_BYTES:  # takes longer to parse than strings, and holds no images
        raise too_large()


def check_fields(body: bytes) -> None:
    """Refuse, with 413, a body with too many members, or with an object in it that has too many."""
    if body.count(b":") <= MAX_FIELDS:
        return
    try:
        content = from_json(body)
    except ValueError:
        return  # the endpoint says what is wrong
    objects = [content, *content.values()] if isinstance(content, dict) else [content]
    most = max(len(value) if isinstance(value, dict) else 0 for value in objects)
    if most > MAX_FIELDS:
        raise Refusal(413, f"Expected at most {MAX_FIELDS} fields in an object of the body, got {most}")
