"""The replies of another server over HTTP: JSON objects, one or a stream of them, and errors of many shapes.

An error becomes one of our own exceptions, with the server's message in it. A reply that makes no sense raises
`EngineLost`, which ends the request that it belongs to and no other.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any, NoReturn, Protocol

from pydantic_core import from_json

from backends.relayed import EngineLost
from interface.errors import EngineUnavailable, QueueFull, RequestError

REQUEST_TIMEOUT = 408
MOST_DIGITS = 6
"""The most digits of the seconds in a Retry-After: some days."""
LONGEST_REASON = 500
"""Characters of the server's own message that a client is shown."""


class WrongSettings(EngineUnavailable):
    """The server will refuse every request until a setting on our side is changed."""


class Reply(dict[str, Any]):
    """A JSON object from another server. To look up a field that is missing raises EngineLost."""

    def __init__(self, content: Any, path: str) -> None:
        self._path = path
        if not isinstance(content, dict):
            self._unexpected("an object", content)
        super().__init__(content)

    def __missing__(self, name: str) -> NoReturn:
        self._unexpected(repr(name), dict(self))

    def _unexpected(self, expected: str, got: Any) -> NoReturn:
        raise EngineLost(f"expected {expected} in what {self._path} answers, got {str(got)[:LONGEST_REASON]}")


class ServerSentEvent(Protocol):
    @property
    def event(self) -> str: ...

    @property
    def data(self) -> str: ...


async def replies(events: AsyncIterator[ServerSentEvent], path: str, error_status: int) -> AsyncIterator[Reply]:
    """Yield the JSON objects of a stream, up to [DONE] or the end; raise the first that is an error."""
    async for event in events:
        if event.data == "[DONE]":
            return
        reply = _parse_event(event.data, path)
        if event.event == "error" or reply.get("error") is not None or reply.get("object") == "error":
            raise refusal(status_in(reply) or error_status, event.data.encode())
        yield reply


def _parse_event(text: str, path: str) -> Reply:
    """Parse an object of a stream, which may have half a character, as an escape, in its texts. Raises EngineLost."""
    try:
        return parse_reply(text, path)
    except EngineLost:
        with suppress(ValueError, RecursionError):
            return Reply(json.loads(text), path)  # slower, and takes such escapes
        raise


def parse_reply(text: str, path: str) -> Reply:
    """Parse a JSON object. Raises EngineLost if the text is not one."""
    try:
        return Reply(from_json(text), path)
    except ValueError:  # half a character, in an escape, is one, too
        raise EngineLost(f"expected JSON in what {path} answers, got {text[:LONGEST_REASON]}") from None


def status_in(reply: Mapping[str, Any]) -> int | None:
    """The status of an error in a stream, if it has one: servers have it in different places, and some have a text."""
    error = reply.get("error")
    codes = [part.get(name) for part in (error, reply) if isinstance(part, dict) for name in ("code", "status_code")]
    return next((code for code in codes if isinstance(code, int)), None)


def refusal(status: int, body: bytes, retry_after: str | None = None) -> Exception:
    """The exception that an answer with this status, this body and this Retry-After stands for."""
    message = message_in(body) or f"status {status}"
    if status in (429, 503):
        return QueueFull(f"The engine's server takes no more requests: {message}", _seconds_in(retry_after))
    if status in (401, 403):
        return WrongSettings(f"The engine's server wants another key (ENGINE_BACKEND_KEY): {message}")
    if 400 <= status < 500 and status != REQUEST_TIMEOUT:
        return RequestError(f"The engine's server refuses this: {message}")
    return EngineUnavailable(f"The engine's server has failed: {message}")


def _seconds_in(retry_after: str | None) -> int | None:
    """The seconds of a Retry-After. None if it is a date, which only says something if both clocks are right."""
    is_number = retry_after is not None and retry_after.isdecimal() and len(retry_after) <= MOST_DIGITS
    return int(retry_after) if is_number and retry_after is not None else None


def message_in(body: bytes) -> str:
    """The message in an error's body, which servers nest in different ways."""
    try:
        found: Any = from_json(body)
    except ValueError:
        return body.decode(errors="replace").strip()[:LONGEST_REASON]
    for name in ("error", "message", "detail"):
        while isinstance(found, dict) and name in found:
            found = found[name]
    return (found if isinstance(found, str) else json.dumps(found))[:LONGEST_REASON]
