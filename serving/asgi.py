"""The types and the headers of ASGI, for the middleware around the doors. (`raw_asgi.py` has its own, to show them.)

Source: the ASGI specification, version 3.0.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


def header(message: Message, name: bytes) -> str | None:
    """The first value of a header, in a request's scope or in the start of an answer. `name` is in lower case."""
    return next((value.decode("latin-1") for key, value in message.get("headers", ()) if key.lower() == name), None)


def encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return headers in the form of a message."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
