"""A server made by hand: it calls an ASGI application with a scope, a receive and a send, message by message.

A test sees each message the application sends at the moment it is sent, and decides when the next one is received.
What the specification forbids an application to send fails the test that made it do so.

Source: the ASGI specification, HTTP connection scope, versions 2.3 and 2.4; lifespan 2.0.
"""

import asyncio
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

from starlette.types import ASGIApp, Message, Scope

PATIENCE = 60.0
"""Seconds after which a test stops waiting and fails. On an idle machine nothing takes a twentieth of it."""
JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Server:
    """The ways in which servers differ; an application must work with all of them."""

    spec_version: str = "2.3"
    send_after_disconnect: Literal["drops", "raises"] = "drops"

    def __str__(self) -> str:
        return f"spec {self.spec_version}, send {self.send_after_disconnect}"


SERVERS = [
    Server(version, behaviour)  # type: ignore[arg-type]
    for version, behaviour in itertools.product(("2.3", "2.4"), ("drops", "raises"))
]
UVICORN = Server()


@dataclass(frozen=True)
class Response:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return strict_json(self.body)

    def problems(self) -> list[dict[str, Any]]:
        """The list in a 422."""
        assert self.status == 422, (self.status, self.body[:200])
        detail: list[dict[str, Any]] = self.json()["detail"]
        return detail


def with_settled_id(headers: Mapping[str, str]) -> dict[str, str]:
    """An answer's headers with "new" for an id that the server has made; "mine", the client's own, stays."""
    request_id = headers.get("x-request-id")  # a preflight's answer has none
    assert headers.get("request-id") == request_id
    return {**headers} if request_id in (None, "mine") else {**headers, "x-request-id": "new", "request-id": "new"}


def strict_json(text: bytes) -> Any:
    """Parse JSON as clients do that are not Python, without NaN and infinities."""

    def not_json(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=not_json)


class Exchange:
    """One request and its answer. `sent` holds the messages that reached the client."""

    def __init__(self, app: ASGIApp, scope: Scope, server: Server = UVICORN) -> None:
        self.app = app
        self.scope = scope
        self.server = server
        self.sent: list[Message] = []
        self.send_calls = 0
        self.receive_calls = 0
        self.is_disconnected = False
        self._to_receive: asyncio.Queue[Message] = asyncio.Queue()
        self._unread: asyncio.Queue[Message] = asyncio.Queue()
        self._receiving = 0
        self._room = asyncio.Event()
        self._room.set()
        self._ended = False
        self.task: asyncio.Task[None] = asyncio.create_task(self._run())

    # --- The client's side ------------------------------------------------------------------------------------------

    def send_body(self, body: bytes, more_body: bool = False) -> None:
        self._to_receive.put_nowait({"type": "http.request", "body": body, "more_body": more_body})

    def send_message(self, message: Message) -> None:
        """Send any message, also one that a server should not send."""
        self._to_receive.put_nowait(message)

    def disconnect(self) -> None:
        self.is_disconnected = True
        self._to_receive.put_nowait({"type": "http.disconnect"})
        self._room.set()

    def stop_reading(self) -> None:
        """From now on every send waits, as it does when the socket is full."""
        self._room.clear()

    def start_reading(self) -> None:
        self._room.set()

    async def next_message(self) -> Message:
        """The next message that the application sends, or has sent."""
        async with asyncio.timeout(PATIENCE):
            return await self._unread.get()

    async def next_event(self) -> dict[str, Any]:
        """The next event of a stream, its JSON parsed. Each event comes in a message of its own."""
        message = await self.next_message()
        assert message["type"] == "http.response.body"
        return event_of(message["body"])

    async def end(self) -> None:
        """Wait for the application to return. Raises what it raises."""
        async with asyncio.timeout(PATIENCE):
            await asyncio.shield(self.task)

    async def response(self) -> Response:
        """The whole answer, once the application has returned."""
        await self.end()
        return self.collected()

    def collected(self) -> Response:
        """The answer as far as it has been sent, which must be all of it."""
        start, *bodies = self.sent
        assert self._ended, "the application returned before the last body"
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]}
        assert len(headers) == len(start["headers"]), "a header came twice"
        return Response(start["status"], headers, b"".join(body.get("body", b"") for body in bodies))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """End what a test has left running."""
        if not self.task.done():
            self.disconnect()
            async with asyncio.timeout(PATIENCE):
                await asyncio.wait([self.task])
        if not self.task.cancelled():
            self.task.exception()  # a test that wanted it has had it from end()

    # --- The server's side ------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        result = await self.app(self.scope, self._receive, self._send)  # type: ignore[func-returns-value]
        assert result is None, "an application returns None"

    async def _receive(self) -> Message:
        self.receive_calls += 1
        self._receiving += 1
        assert self._receiving == 1, "two tasks call receive at the same time"
        try:
            if self.is_disconnected and self._to_receive.empty():
                return {"type": "http.disconnect"}
            return await self._to_receive.get()
        finally:
            self._receiving -= 1

    async def _send(self, message: Message) -> None:
        self.send_calls += 1
        _check(message, is_first=not self.sent and not self.is_disconnected, ended=self._ended)
        await self._room.wait()
        if self.is_disconnected:
            if self.server.send_after_disconnect == "raises":
                raise OSError("the client has left")
            return
        self.sent.append(message)
        self._ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        self._unread.put_nowait(message)


def _check(message: Message, is_first: bool, ended: bool) -> None:
    """What the specification says about the messages of an answer."""
    assert not ended, f"{message['type']} after the last body"
    if message["type"] == "http.response.start":
        assert isinstance(message["status"], int)
        for name, value in message["headers"]:
            assert isinstance(name, bytes), name
            assert isinstance(value, bytes), value
            assert name == name.lower(), f"{name!r} is not in lower case"
            assert name not in (b"transfer-encoding", b"connection"), f"{name!r} is the server's"
            assert b"\n" not in value, value
            assert b"\r" not in value, value
    else:
        assert message["type"] == "http.response.body", message["type"]
        assert not is_first, "a body before the start"
        assert isinstance(message.get("body", b""), bytes)


def event_of(frame: bytes) -> dict[str, Any]:
    """The JSON in one server-sent event."""
    assert frame.startswith(b"data: "), frame
    assert frame.endswith(b"\n\n"), frame
    assert frame.count(b"\n") == 2, frame
    assert b"\r" not in frame, frame
    event: dict[str, Any] = strict_json(frame[len(b"data: ") :])
    return event


def events_of(body: bytes) -> list[dict[str, Any]]:
    """All events of a stream that has ended as it should; comments are left out."""
    body = re.sub(rb"(?m)^:.*\n", b"", body)
    *frames, done, after = body.split(b"\n\n")
    assert (done, after) == (b"data: [DONE]", b"")
    return [event_of(frame + b"\n\n") for frame in frames]


def http_scope(
    method: str,
    path: str,
    headers: dict[str, str] | Iterable[tuple[bytes, bytes]] | None = None,
    server: Server = UVICORN,
    root_path: str = "",
) -> dict[str, Any]:
    """A scope with all that the specification requires; `path` includes `root_path`, as it does there, and a query."""
    path, _, query = path.partition("?")
    if isinstance(headers, dict):
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": server.spec_version},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": root_path,
        "headers": list(headers or []),
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 8000),
    }


class Client:
    """Opens exchanges with one application."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def open(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | Iterable[tuple[bytes, bytes]] | None = None,
        server: Server = UVICORN,
        root_path: str = "",
    ) -> Exchange:
        """Begin a request; its body is still to be sent."""
        return Exchange(self.app, http_scope(method, path, headers, server, root_path), server)

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | Iterable[tuple[bytes, bytes]] | None = None,
        root_path: str = "",
    ) -> Response:
        async with self.open(method, path, headers, root_path=root_path) as exchange:
            exchange.send_body(body)
            return await exchange.response()

    async def post(self, content: Any = None, headers: dict[str, str] | None = None, **fields: Any) -> Response:
        """`POST /generate`, with `content` or an object of `fields`; bytes are sent as they are."""
        body = content if isinstance(content, bytes) else json.dumps(fields if content is None else content).encode()
        return await self.request("POST", "/generate", body, JSON | (headers or {}))

    def open_generate(self, prompt: str, stream: bool = True, server: Server = UVICORN, **fields: Any) -> Exchange:
        """`POST /generate`, its body sent, its answer still to come."""
        exchange = self.open("POST", "/generate", JSON, server)
        exchange.send_body(json.dumps({"prompt": prompt, "stream": stream, **fields}).encode())
        return exchange


@asynccontextmanager
async def lifespan(app: ASGIApp) -> AsyncIterator[None]:
    """Run the lifespan protocol around a block, in a task of its own, as a server does."""
    to_receive: asyncio.Queue[Message] = asyncio.Queue()
    sent: asyncio.Queue[Message] = asyncio.Queue()
    scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    task = asyncio.ensure_future(app(scope, to_receive.get, sent.put))
    try:
        to_receive.put_nowait({"type": "lifespan.startup"})
        await _expect(task, sent, {"type": "lifespan.startup.complete"})
        yield
        to_receive.put_nowait({"type": "lifespan.shutdown"})
        await _expect(task, sent, {"type": "lifespan.shutdown.complete"})
        async with asyncio.timeout(PATIENCE):
            await task
        assert sent.empty(), sent.get_nowait()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


async def _expect(task: "asyncio.Future[None]", sent: asyncio.Queue[Message], message: Message) -> None:
    """The next message that the application sends; if it returns or raises instead, that is the failure."""
    getting = asyncio.ensure_future(sent.get())
    both: list[asyncio.Future[Any]] = [task, getting]
    await asyncio.wait(both, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    if not getting.done():
        getting.cancel()
        if task.done():
            task.result()
        raise AssertionError(f"expected {message}, and nothing came")
    assert getting.result() == message


async def until(condition: Callable[[], Any], what: str = "the condition") -> None:
    """Wait for something that happens on another thread or in another task."""
    give_up_at = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up_at, f"{what} did not come about in {PATIENCE} s"
        await asyncio.sleep(0.001)
