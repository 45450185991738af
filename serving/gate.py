"""The outermost layer of both ASGI applications: what every request passes before a door sees it.

    app = Gate(app, driver)

It keeps the list of open requests, hands messages on, and sees to it that each one ends: with a whole answer, or with
a connection that is gone. What it refuses, it refuses in the shape of the API that was asked.

Source: the ASGI specification, HTTP part, versions 2.3 and 2.4.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable
from contextlib import suppress

import contract
from interface.errors import EngineUnavailable, QueueFull
from serving.asgi import ASGIApp, Message, Receive, Scope, Send, encoded, header
from serving.driver import Driver
from serving.exchanges import CURRENT, Exchange
from serving.tracing import record_spans

log = logging.getLogger("engine.requests")

CLIENT_CLOSED = contract.Answer(499, b"", "text/plain")
"""For a client that has left. It reaches no client, but a middleware around the application may insist on an answer."""
BODY_LOST = contract.Refusal(
    400,
    "Expected a request without Upgrade, got one: uvicorn on httptools loses its body. Have the client speak HTTP/1.1, "
    "or start the server with --http h11.",
)
ABSOLUTE_URL = re.compile(r"https?://(?P<host>[^/?#]*)(?:/(?P<path>.*))?", re.IGNORECASE | re.DOTALL)
"""A whole URL."""
MAX_BODIES_BYTES = 256 * 1024 * 1024
"""What the bodies of all open requests may hold together."""
SHUTTING_DOWN = EngineUnavailable("The server is shutting down")
NOT_AWAITED = (408, 413)
"""Statuses of answers to a body that is not waited for: the connection ends with the answer."""


class Gate:
    """The middleware: it watches each request from its first message to its end."""

    def __init__(self, app: ASGIApp, driver: Driver) -> None:
        self.app = app
        self._config = driver.config
        self._exchanges = driver.exchanges
        self._metrics = driver.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = self._exchanges.begin(receive)
        resolve_absolute_target(scope)
        scope["request_id"] = contract.request_id(header(scope, b"x-request-id"))
        sending = self._sending(exchange, send)
        token = CURRENT.set(exchange)
        try:
            if self._exchanges.is_full:
                await respond(scope, sending, self._refusal(scope, self._too_many()))
                return
            if exchange.connection is not None and exchange.connection.loses_bodies and header(scope, b"upgrade"):
                await respond(scope, sending, self._refusal(scope, BODY_LOST))
                return
            with exchange.cancel_scope:
                await self.app(scope, self._receiving(exchange, scope, receive), sending)
            await self._finish(exchange, scope, sending)
        finally:
            CURRENT.reset(token)
            self._exchanges.end(exchange)
            try:
                self._record(exchange, scope)
            except Exception:  # what is counted must not end what is counted
                log.exception("A request could not be counted")

    def _receiving(self, exchange: Exchange, scope: Scope, receive: Receive) -> Receive:
        """`receive` with an eye on the body: how large it is, how long it takes, and when it has come."""

        async def receiving() -> Message:
            if exchange.has_body:
                message = await receive()
            else:
                if exchange.body_bytes == 0 and declared_bytes(scope) > contract.MAX_BODY_BYTES:
                    raise contract.body_too_large()  # what is announced need not be waited for
                message = await self._piece(exchange, receive)
            if message["type"] == "http.disconnect":
                exchange.has_left = True
            return message

        return receiving

    async def _piece(self, exchange: Exchange, receive: Receive) -> Message:
        """The next piece of the body, within its time."""
        try:
            async with asyncio.timeout(self._config.body_limit - exchange.age):
                message = await receive()
        except TimeoutError:
            raise contract.body_too_slow(self._config.body_limit) from None
        exchange.body_bytes += len(message.get("body", b""))
        exchange.has_body = not message.get("more_body", False)
        if self._exchanges.body_bytes > MAX_BODIES_BYTES:
            raise QueueFull("The bodies of the open requests take all the room that there is for them")
        return message

    def _sending(self, exchange: Exchange, send: Send) -> Send:
        """`send` with an eye on how far the answer has come."""

        def sending(message: Message) -> Awaitable[None]:
            if message.get("more_body", False):
                return send(message)  # a coroutine of our own around each token's would cost as much as the rest
            return self._send_start_or_end(exchange, send, message)

        return sending

    async def _send_start_or_end(self, exchange: Exchange, send: Send, message: Message) -> None:
        """Send the message that begins an answer, or the one that ends it."""
        if exchange.connection is not None and exchange.connection.is_closed:
            exchange.connection.abort()  # so the server knows, and drops the message: uvloop would raise
        if message["type"] == "http.response.start":
            exchange.status = message["status"]
            if exchange.connection is not None and not exchange.has_body and message["status"] in NOT_AWAITED:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)
        else:
            await send(message)
            exchange.is_complete = True

    async def _finish(self, exchange: Exchange, scope: Scope, send: Send) -> None:
        """End an answer that the application has left unfinished."""
        if exchange.is_complete:
            return
        if exchange.status is None:
            await respond(scope, send, CLIENT_CLOSED if exchange.has_left else self._refusal(scope, SHUTTING_DOWN))
        elif exchange.connection is not None:
            exchange.connection.abort()
            await asyncio.sleep(0)  # the server hears of it, and has nothing to complain about
            await asyncio.sleep(0)

    def _record(self, exchange: Exchange, scope: Scope) -> None:
        """Count a request that is over; a refusal leaves a line in the log, as a generation has done already.

        A probe that hears that the server is not ready has been answered, and not refused.
        """
        is_probe = contract.route_path(scope["path"], scope.get("root_path", "")) in contract.REPORTS
        if exchange.status is not None and not (is_probe and exchange.status == 503):
            self._metrics.answer(exchange.status)
            if exchange.status >= 400 and exchange.log is None and exchange.status != CLIENT_CLOSED.status:
                fields = {"request_id": scope["request_id"], "method": scope["method"], "status": exchange.status}
                shown = " ".join(f"{name}={value}" for name, value in fields.items())
                log.info("refused %s ms=%.1f", shown, 1e3 * exchange.age, extra={"fields": fields})
        record_spans(scope, exchange)

    def _too_many(self) -> Exception:
        return QueueFull(f"Expected at most {self._exchanges.most} connections at once (ENGINE_MAX_CONNECTIONS)")

    def _refusal(self, scope: Scope, error: Exception) -> contract.Answer:
        return contract.refusal(contract.route_path(scope["path"], scope.get("root_path", "")), error)


async def respond(scope: Scope, send: Send, answer: contract.Answer) -> None:
    """Send a whole answer; a client that has left misses it without an error."""
    answer = answer.with_request_id(scope["request_id"])
    own = {"content-type": answer.media_type, "content-length": str(len(answer.body))}
    headers = contract.SAFE_HEADERS | answer.headers | own
    with suppress(OSError):
        await send({"type": "http.response.start", "status": answer.status, "headers": encoded(headers)})
        await send({"type": "http.response.body", "body": answer.body if scope["method"] != "HEAD" else b""})


def resolve_absolute_target(scope: Scope) -> None:
    """Find the path if a request's target is a whole URL, as a client writes it for a proxy; its host is the one meant.

    Source: RFC 9112, section 3.2.2.
    """
    root_path = scope.get("root_path", "")
    if (found := ABSOLUTE_URL.match(scope["path"].removeprefix(root_path))) is None:
        return
    host = (b"host", found["host"].encode("latin-1", "replace"))
    scope["headers"] = [host, *(pair for pair in scope["headers"] if pair[0] != b"host")]
    scope["path"] = f"{root_path}/{found['path'] or ''}"


def declared_bytes(scope: Scope) -> int:
    """The length of the body, as its header says; 0 if there is none, or none that is a number."""
    length = header(scope, b"content-length") or ""
    return int(length) if length.isdecimal() and len(length) < 20 else 0
