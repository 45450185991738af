"""The outermost middleware of both ASGI doors: every request passes it first.

    app = Gate(app, driver)

It keeps the list of open requests, passes messages on, and makes sure that each request ends: with a whole answer or
with a closed connection. Its refusals have the shape of the API that the client uses.

Source: the ASGI specification, HTTP part, versions 2.3 and 2.4.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable
from contextlib import suppress

import contract
from interface.errors import EngineUnavailable, QueueFull
from serving.asgi import ASGIApp, Message, Receive, Scope, Send, dialect, header, respond, route_path
from serving.driver import Driver
from serving.exchanges import Exchange, Exchanges, current_exchange
from serving.tracing import record_spans
from serving.websockets import NO_WEBSOCKETS, is_handshake, refuse_websocket

log = logging.getLogger("engine.requests")

CLIENT_CLOSED = contract.Answer(499, b"", "text/plain")
"""The answer to a client that has left. A middleware around the application may insist on an answer."""
BODY_LOST = contract.Refusal(
    400,
    "Expected a request without Upgrade, got one: uvicorn on httptools loses its body. Have the client speak HTTP/1.1, "
    "or start the server with --http h11.",
)
TWO_FRAMINGS = contract.Refusal(
    400,
    "Expected Content-Length or (in HTTP/1.1) Transfer-Encoding, got a body that a proxy may read to another end.",
    headers={"connection": "close"},  # what follows on it may be a part of the body
)
ABSOLUTE_URL = re.compile(r"https?://(?P<host>[^/?#]*)(?:/(?P<path>.*))?", re.IGNORECASE | re.DOTALL)
"""A request target that is a whole URL."""
MAX_BODIES_BYTES = 256 * 1024 * 1024
"""Bytes of the bodies of all open requests together, until each has been parsed."""
SHUTTING_DOWN = EngineUnavailable("The server is shutting down")
NOT_AWAITED = (408, 413)
"""Statuses that answer a request before its body has been read: the connection is then closed."""
LINGER, PAUSE = 5.0, 1.0
"""Seconds that a closing connection goes on reading, in all and until the next piece."""


class Gate:
    """The middleware, which watches each request from its first message to its end."""

    def __init__(self, app: ASGIApp, driver: Driver) -> None:
        self.app = app
        self._body_limit = driver.config.body_limit
        self._exchanges = driver.exchanges
        self._metrics = driver.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await refuse_websocket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = self._exchanges.begin(receive)
        exchange.has_whole_body = is_bodyless(scope)
        resolve_absolute_target(scope)
        scope["request_id"] = contract.request_id(header(scope, b"x-request-id"))
        passage = Passage(scope, receive, send, exchange, self._exchanges, self._body_limit)
        token = current_exchange.set(exchange)
        try:
            if (reason := self._reason_to_refuse(exchange, scope)) is not None:
                await passage.refuse(reason)
                return
            with exchange.cancel_scope:
                await self.app(scope, passage.receive, passage.send)
            await passage.finish()
        finally:
            current_exchange.reset(token)
            self._exchanges.end(exchange)
            try:
                self._record(exchange, scope)
            except Exception:  # a fault in the metrics must not end a request
                log.exception("A request could not be counted")

    def _reason_to_refuse(self, exchange: Exchange, scope: Scope) -> Exception | None:
        """Why a request is refused before the application sees it; None if it is not."""
        if self._exchanges.is_full:
            return QueueFull(
                f"Expected at most {self._exchanges.max_open} connections at once (ENGINE_MAX_CONNECTIONS)"
            )
        if is_handshake(scope):
            return NO_WEBSOCKETS
        if exchange.connection is not None and exchange.connection.loses_bodies and header(scope, b"upgrade"):
            return BODY_LOST
        if has_two_framings(scope):
            return TWO_FRAMINGS
        return None

    def _record(self, exchange: Exchange, scope: Scope) -> None:
        """Count a request that is over, and log it if it was refused (a generation has written its own line).

        A 503 to a probe is an answer and not a refusal.
        """
        is_probe = route_path(scope) in contract.REPORTS
        if exchange.status is not None and not (is_probe and exchange.status == 503):
            self._metrics.answer(exchange.status)
            if exchange.status >= 400 and exchange.log is None and exchange.status != CLIENT_CLOSED.status:
                fields = {"request_id": scope["request_id"], "method": scope["method"], "status": exchange.status}
                shown = " ".join(f"{name}={value}" for name, value in fields.items())
                log.info("refused %s ms=%.1f", shown, 1e3 * exchange.age, extra={"fields": fields})
        record_spans(scope, exchange)


class Passage:
    """One request on its way through the gate: `receive` and `send` are what the application gets.

    Args:
        exchange: the request's own, which is kept up to date here.
        exchanges: those of all open requests.
        body_limit: seconds that the body may take.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        exchange: Exchange,
        exchanges: Exchanges,
        body_limit: float,
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._exchange = exchange
        self._exchanges = exchanges
        self._body_limit = body_limit

    async def receive(self) -> Message:
        """Receive the next message, and limit the body's size and the time that it takes."""
        if self._exchange.has_whole_body:
            message = await self._receive()
        else:
            if self._exchange.body_bytes == 0:
                contract.announced_bytes(header(self._scope, b"content-length"))  # before it is read
            message = await self._receive_body()
        if message["type"] == "http.disconnect":
            self._exchange.has_left = True
        return message

    async def _receive_body(self) -> Message:
        """Receive the next piece of the body, within the limit."""
        try:
            async with asyncio.timeout(self._body_limit - self._exchange.age):
                message = await self._receive()
        except TimeoutError:
            raise contract.body_too_slow(self._body_limit) from None
        self._exchange.add_body(len(message.get("body", b"")), message.get("more_body", False))
        if self._exchanges.body_bytes > MAX_BODIES_BYTES:
            self._exchange.drop_body()  # now: refusing it may take long, and others may come meanwhile
            raise QueueFull(f"The bodies of the open requests hold more than {MAX_BODIES_BYTES} bytes together")
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """Send a message, and note the answer's status and its end."""
        if self._exchange.pending is not None:
            return self._send_after(message)
        if message.get("more_body", False):
            return self._pass_on(message)  # another coroutine for each token would double the cost of this method
        if message["type"] == "http.response.start":
            return self._send_start(message)
        return self._send_end(message)

    async def _send_after(self, message: Message) -> None:
        """Wait for what is pending, and then send a message."""
        pending, self._exchange.pending = self._exchange.pending, None
        assert pending is not None
        await pending
        await self.send(message)

    async def _send_start(self, message: Message) -> None:
        """Send the message that begins an answer."""
        exchange = self._exchange
        exchange.status = message["status"]
        if exchange.connection is not None and not exchange.has_whole_body and message["status"] in NOT_AWAITED:
            message["headers"] = [*message["headers"], (b"connection", b"close")]
        await self._pass_on(message)

    async def _send_end(self, message: Message) -> None:
        """Send the message that ends an answer.

        Closing a connection with unread bytes resets it, and a client that is still sending may then lose the answer.
        So what it sends is read and dropped first, for a while. uvicorn gets the answer before that, and closes after
        the empty message; another may close as soon as it has as many bytes as announced, so it gets the answer after.
        """
        exchange = self._exchange
        is_closing = exchange.status == 413 or header(self._scope, b"connection") == "close"
        if is_closing and not exchange.has_whole_body:
            if exchange.connection is not None:
                await self._pass_on({**message, "more_body": True})
                message = {"type": "http.response.body"}
            await drop_body(self._receive)
        await self._pass_on(message)
        exchange.is_complete = True

    def _pass_on(self, message: Message) -> Awaitable[None]:
        """Send a message; have the server drop it if the connection is closed, where uvloop would raise."""
        connection = self._exchange.connection
        if connection is not None and connection.is_closed:
            connection.abort()
        return self._send(message)

    async def refuse(self, reason: Exception) -> None:
        """Answer in the place of the application."""
        await respond(self._scope, self.send, dialect(self._scope).refusal(reason))

    async def finish(self) -> None:
        """End an answer that the application has left unfinished."""
        exchange = self._exchange
        if exchange.is_complete:
            return
        if exchange.status is None and exchange.has_left:
            await respond(self._scope, self.send, CLIENT_CLOSED)
        elif exchange.status is None:
            await self.refuse(SHUTTING_DOWN)
        elif exchange.connection is not None:
            exchange.connection.abort()


def is_bodyless(scope: Scope) -> bool:
    """Whether a request has no body, so that none need be read before its connection is closed. HTTP/2 announces none.

    Source: RFC 9112, section 6.3.
    """
    if not scope["http_version"].startswith("1"):
        return False
    return header(scope, b"content-length") is None and header(scope, b"transfer-encoding") is None


def has_two_framings(scope: Scope) -> bool:
    """Whether a proxy in front may have read a body of another length, and so another request after it ("smuggling").

    Source: RFC 9112, sections 6.1 and 6.3.
    """
    if header(scope, b"transfer-encoding") is None:
        return False
    return header(scope, b"content-length") is not None or scope["http_version"] == "1.0"


async def drop_body(receive: Receive) -> None:
    """Receive what is left of a body, as long as it comes, but not for ever."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            while True:
                async with asyncio.timeout(PAUSE):
                    message = await receive()
                if not message.get("more_body", False):
                    return


def resolve_absolute_target(scope: Scope) -> None:
    """Replace a request target that is a whole URL, as clients send it to a proxy, by its path and its host.

    Source: RFC 9112, section 3.2.2.
    """
    root_path = scope.get("root_path", "")
    if (found := ABSOLUTE_URL.match(scope["path"].removeprefix(root_path))) is None:
        return
    host = (b"host", found["host"].encode("latin-1", "replace"))
    scope["headers"] = [host, *(pair for pair in scope["headers"] if pair[0] != b"host")]
    scope["path"] = f"{root_path}/{found['path'] or ''}"
