"""A middleware that records every message of an ASGI application, and passes it on unchanged.

    app = Transcript(app)

It adds two paths: `GET /transcript/{request_id}`, the messages as server-sent events, those that have passed at once
and the others as they pass, and `GET /transcript/{request_id}.json`, all of them at once.

Source: the ASGI specification, HTTP part, versions 2.3 and 2.4; HTML Living Standard, section 9.2.
"""

from collections.abc import Iterable
from contextlib import suppress

import anyio

import contract
from config import Config
from serving.asgi import ASGIApp, Message, Receive, Scope, Send, encoded, header, route_path
from serving.transcript.records import END, PREFIX, QUIET_PATHS, Record, Records, events, head_of
from serving.transcript.terminal import show


def with_transcript(app: ASGIApp, config: Config) -> ASGIApp:
    """The application as it is, or with the transcript around it if the settings ask for one."""
    return Transcript(app, Records(show)) if config.transcript else app


class Transcript:
    """The middleware. Messages before the request has an id are recorded too, and can be read afterwards."""

    def __init__(self, app: ASGIApp, records: Records | None = None) -> None:
        self.app = app
        self.records = records or Records()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = route_path(scope) if scope["type"] == "http" else ""
        if path.startswith(PREFIX):
            await self._serve(scope, path, receive, send)
        elif scope["type"] == "http" and path not in QUIET_PATHS:
            await self._watch(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _watch(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = self.records.open(header(scope, b"x-request-id"))
        line = f"{scope['method']} {scope['path']} HTTP/{scope['http_version']}"
        record.write("scope", scope["type"], head_of(line, _decoded(scope["headers"])))

        async def noted_receive() -> Message:
            message = await receive()
            record.write("receive", message["type"], *_content(message))
            return message

        async def noted_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.name(header(message, b"x-request-id") or f"#{record.number}")
            record.write("send", message["type"], *_content(message))
            try:
                await send(message)
            except OSError as error:  # how a server of spec 2.4 says that the client has left
                record.write("send", type(error).__name__, str(error).encode(), 0)
                raise

        try:
            await self.app(scope, noted_receive, noted_send)
        finally:
            record.end()

    async def _serve(self, scope: Scope, path: str, receive: Receive, send: Send) -> None:
        found = self.records.answer(scope["method"], path, header(scope, b"last-event-id"))
        request_id = contract.request_id(header(scope, b"x-request-id"))
        with suppress(OSError):
            if isinstance(found, contract.Answer):
                answer = found.for_request(request_id)
                await send(_start(answer.status, answer.headers))
                await send({"type": "http.response.body", "body": answer.body})
            else:
                await send(_start(200, contract.stream_headers(request_id)))
                await _send_until_gone(found, receive, send)


async def _send_until_gone(record: Record, receive: Receive, send: Send) -> None:
    """Send a record's notes until it ends or its reader leaves."""
    async with anyio.create_task_group() as tasks:

        async def cancel_when_gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        tasks.start_soon(cancel_when_gone)
        with suppress(OSError):
            await _send_notes(record, send)
        tasks.cancel_scope.cancel()


async def _send_notes(record: Record, send: Send) -> None:
    news = anyio.Event()

    def on_news() -> None:
        news.set()

    record.listeners.add(on_news)
    try:
        sent = 0
        while True:
            has_ended, notes = record.has_ended, record.notes[sent:]
            sent += len(notes)
            body = events(notes) + (END if has_ended else b"")
            if body:
                await send({"type": "http.response.body", "body": body, "more_body": not has_ended})
            if has_ended:
                return
            if len(record.notes) == sent and not record.has_ended:
                await news.wait()
            news = anyio.Event()
    finally:
        record.listeners.discard(on_news)


def _content(message: Message) -> tuple[bytes, int | None, bool | None]:
    """Return a message's content, its size in bytes if that is only a part of it, and its `more_body`."""
    if message["type"] == "http.response.start":
        return head_of(str(message["status"]), _decoded(message.get("headers", ()))), None, None
    if message["type"] in ("http.request", "http.response.body"):
        return bytes(message.get("body", b"")), None, bool(message.get("more_body", False))
    return b"", 0, None


def _start(status: int, headers: dict[str, str]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": encoded(headers)}


def _decoded(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
