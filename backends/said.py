"""What another server says over HTTP: JSON objects, one or a stream of them, and refusals in its own words.

Servers have many shapes for an error; a client of ours gets the words, and the kind of error that they mean. What makes
no sense is that server's fault: it ends the request that it belongs to, as `EngineLost`.
"""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, NoReturn, Protocol

from backends.relayed import EngineLost
from interface.errors import EngineUnavailable, QueueFull, RequestError

REQUEST_TIMEOUT = 408
LONGEST_REASON = 500
"""Characters of the other side's own words that a client is shown."""


class WrongSettings(EngineUnavailable):
    """A server that will not answer until the settings here are others."""


class Said(dict[str, Any]):
    """A JSON object that another server has said. What it lacks is that server's fault."""

    def __init__(self, said: Any, path: str) -> None:
        self._path = path
        if not isinstance(said, dict):
            self._wonder("an object", said)
        super().__init__(said)

    def __missing__(self, name: str) -> NoReturn:
        self._wonder(repr(name), dict(self))

    def _wonder(self, expected: str, said: Any) -> NoReturn:
        raise EngineLost(f"expected {expected} in what {self._path} answers, got {str(said)[:LONGEST_REASON]}")


class ServerSentEvent(Protocol):
    @property
    def event(self) -> str: ...

    @property
    def data(self) -> str: ...


async def objects(events: AsyncIterator[ServerSentEvent], path: str, error_status: int) -> AsyncIterator[Said]:
    """The JSON objects of a stream, up to [DONE] or the end. One that is an error is raised."""
    async for event in events:
        if event.data == "[DONE]":
            return
        said = object_of(event.data, path)
        if event.event == "error" or said.get("error") is not None or said.get("object") == "error":
            raise refusal(status_in(said) or error_status, event.data.encode())
        yield said


def object_of(text: str, path: str) -> Said:
    """The JSON object that a text is. Raises EngineLost if it is none."""
    try:
        return Said(json.loads(text), path)
    except ValueError:
        raise EngineLost(f"expected JSON in what {path} answers, got {text[:LONGEST_REASON]}") from None


def status_in(said: Mapping[str, Any]) -> int | None:
    """The status of an error in a stream, if it has one: servers put it in different places, or words in its place."""
    error = said.get("error")
    codes = [one.get(name) for one in (error, said) if isinstance(one, dict) for name in ("code", "status_code")]
    return next((code for code in codes if isinstance(code, int)), None)


def refusal(status: int, body: bytes) -> Exception:
    """The error that a status means, and what comes with it."""
    message = words_of(body) or f"status {status}"
    if status in (429, 503):
        return QueueFull(f"The engine's server takes no more requests: {message}")
    if status in (401, 403):
        return WrongSettings(f"The engine's server wants another key (ENGINE_BACKEND_KEY): {message}")
    if 400 <= status < 500 and status != REQUEST_TIMEOUT:
        return RequestError(f"The engine's server refuses this: {message}")
    return EngineUnavailable(f"The engine's server has failed: {message}")


def words_of(body: bytes) -> str:
    """What an error's body says; servers have many shapes for it."""
    try:
        said: Any = json.loads(body)
    except ValueError:
        return body.decode(errors="replace").strip()[:LONGEST_REASON]
    for name in ("error", "message", "detail"):
        while isinstance(said, dict) and name in said:
            said = said[name]
    return (said if isinstance(said, str) else json.dumps(said))[:LONGEST_REASON]
