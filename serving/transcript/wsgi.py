"""A middleware that records the calls between a server and a WSGI application, which has no messages.

    app = Transcript(app)

    scope      environ          the call itself
    receive    wsgi.input.read  the application reads a piece of the body
    send       start_response   status and headers are handed over; the server keeps them until the first block
    receive    next             the server asks for a block
    send       block            and gets it
    receive    close            the server has done with the iterable

The paths are those of `asgi.py`. To follow a record while its request runs takes a second worker. Where the application
returns a list, the server no longer sees its length, which it may use for a Content-Length of its own; the door sends
that header itself.

Source: PEP 3333.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import contract
from config import Config
from serving.transcript.records import END, PREFIX, QUIET_PATHS, Record, Records, events, head_of
from serving.transcript.terminal import show


def with_transcript(app: WSGIApplication, config: Config) -> WSGIApplication:
    """The application as it is, or with the transcript around it if the settings ask for one."""
    return Transcript(app, Records(show)) if config.transcript else app


class Transcript:
    """The middleware: it writes down each call between a server and an application."""

    def __init__(self, app: WSGIApplication, records: Records | None = None) -> None:
        self.app = app
        self.records = records or Records()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path.startswith(PREFIX):
            return self._serve(environ, path, start_response)
        if path in QUIET_PATHS:
            return self.app(environ, start_response)
        return self._watch(environ, start_response)

    def _watch(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        record = self.records.open(environ.get("HTTP_X_REQUEST_ID"))
        line = f"{environ['REQUEST_METHOD']} {environ.get('PATH_INFO', '')} {environ['SERVER_PROTOCOL']}"
        record.write("scope", "environ", head_of(line, _headers(environ)))
        environ["wsgi.input"] = NotedInput(environ["wsgi.input"], record)

        def noted_start_response(
            status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
        ) -> Callable[[bytes], object]:
            names = {name.lower(): value for name, value in headers}
            record.name(names.get("x-request-id", f"#{record.number}"))
            record.write("send", "start_response", head_of(status, headers))
            write = start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

            def noted_write(block: bytes) -> object:
                record.write("send", "write", block)
                return write(block)

            return noted_write

        try:
            return NotedBlocks(self.app(environ, noted_start_response), record)
        except BaseException:
            record.end()
            raise

    def _serve(self, environ: WSGIEnvironment, path: str, start_response: StartResponse) -> Iterable[bytes]:
        found = self.records.answer(environ["REQUEST_METHOD"], path, environ.get("HTTP_LAST_EVENT_ID"))
        request_id = contract.request_id(environ.get("HTTP_X_REQUEST_ID"))
        if isinstance(found, Record):
            start_response("200 OK", [*contract.stream_headers(request_id).items()])
            return _pulled_notes(found)
        answer = found.for_request(request_id)
        start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", [*answer.headers.items()])
        return [answer.body]


class NotedInput:
    """`wsgi.input`, whose every read is noted."""

    def __init__(self, stream: Any, record: Record) -> None:
        self._stream = stream
        self._record = record

    def read(self, *size: int) -> bytes:
        return self._noted("read", self._stream.read(*size))

    def readline(self, *size: int) -> bytes:
        return self._noted("readline", self._stream.readline(*size))

    def readlines(self, *hint: int) -> list[bytes]:
        return [self._noted("readlines", line) for line in self._stream.readlines(*hint)]

    def __iter__(self) -> Iterator[bytes]:
        for line in self._stream:
            yield self._noted("__iter__", line)

    def _noted(self, method: str, data: bytes) -> bytes:
        self._record.write("receive", f"wsgi.input.{method}", data)
        return data


class NotedBlocks:
    """The application's iterable, whose every pull is noted."""

    def __init__(self, blocks: Iterable[bytes], record: Record) -> None:
        self._blocks = blocks
        self._iterator: Iterator[bytes] | None = None
        self._record = record

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._record.write("receive", "next")
        if self._iterator is None:
            self._iterator = iter(self._blocks)
        try:
            block = next(self._iterator)
        except StopIteration:
            self._record.write("send", "StopIteration")
            raise
        self._record.write("send", "block", block)
        return block

    def close(self) -> None:
        self._record.write("receive", "close")
        try:
            if hasattr(self._blocks, "close"):
                self._blocks.close()
        finally:
            self._record.end()


def _pulled_notes(record: Record) -> Iterator[bytes]:
    """Yield a record's notes until it ends: those that are there in one block, then each when it comes."""
    news = threading.Event()
    record.listeners.add(news.set)
    try:
        sent = 0
        while True:
            news.clear()
            has_ended, notes = record.has_ended, record.notes[sent:]
            sent += len(notes)
            if notes or has_ended:
                yield events(notes) + (END if has_ended else b"")
            if has_ended:
                return
            news.wait()
    finally:
        record.listeners.discard(news.set)


def _headers(environ: WSGIEnvironment) -> list[tuple[str, str]]:
    """The request's headers, which come under other names."""
    found = {key.removeprefix("HTTP_"): value for key, value in environ.items() if key.startswith("HTTP_")}
    found |= {key: environ[key] for key in ("CONTENT_TYPE", "CONTENT_LENGTH") if environ.get(key)}
    return [(key.lower().replace("_", "-"), value) for key, value in found.items()]
