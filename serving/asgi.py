"""The types, paths, headers and whole answers of ASGI, for the middleware around the doors.

`raw_asgi.py` has its own, to show them.

Source: the ASGI specification, version 3.0.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any

import contract

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


def route_path(scope: Scope) -> str:
    """The path below `root_path`, under which a proxy may have mounted the application."""
    return contract.route_path(scope["path"], scope.get("root_path", ""))


def header(message: Message, name: bytes) -> str | None:
    """The first value of a header, in a request's scope or in the start of an answer. `name` is in lower case."""
    return next((value.decode("latin-1") for key, value in message.get("headers", ()) if key.lower() == name), None)


def dialect(scope: Scope) -> contract.Dialect:
    """The shape of the errors that the client expects."""
    return contract.dialect(route_path(scope), header(scope, b"anthropic-version"))


def encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return headers in the form of a message."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


async def respond(scope: Scope, send: Send, answer: contract.Answer) -> None:
    """Send a whole answer. It is not an error if the client has left."""
    answer = answer.for_request(scope["request_id"])
    with suppress(OSError):
        await send({"type": "http.response.start", "status": answer.status, "headers": encoded(answer.headers)})
        await send({"type": "http.response.body", "body": answer.body if scope["method"] != "HEAD" else b""})
