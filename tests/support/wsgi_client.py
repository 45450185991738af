"""A WSGI server made by hand: it calls an application, and pulls each block of its answer when a test says so.

The standard library's validator stands in between, so that whatever PEP 3333 forbids fails the test.
"""

import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from wsgiref.types import WSGIApplication, WSGIEnvironment
from wsgiref.validate import validator

import raw_wsgi
from config import Config
from serving.sync_driver import Driver
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import Response, event_of
from tests.support.serving import wait_until


class WsgiExchange:
    """One request, and the part of its answer that has been pulled."""

    def __init__(self, app: WSGIApplication, environ: WSGIEnvironment) -> None:
        self.head: tuple[str, list[tuple[str, str]]] | None = None
        self.is_open = True
        self._blocks: Any = validator(app)(environ, self._start_response)
        self._iterator: Iterator[bytes] = iter(self._blocks)

    def __enter__(self) -> "WsgiExchange":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.is_open:
            self.close()

    def next_block(self) -> bytes:
        return next(self._iterator)

    def next_event(self) -> dict[str, Any]:
        return event_of(self.next_block())

    def close(self) -> None:
        """What a server does at the end, and when a write has failed."""
        self.is_open = False
        self._blocks.close()

    def response(self) -> Response:
        body = b"".join(self._iterator)
        self.close()
        assert self.head is not None, "start_response was not called"
        status, headers = self.head
        assert len({name.lower() for name, _ in headers}) == len(headers), "a header came twice"
        return Response(int(status.split()[0]), {name.lower(): value for name, value in headers}, body)

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Any:
        assert self.head is None, "start_response was called twice"
        self.head = status, headers
        return lambda data: None


@dataclass
class WsgiService:
    """The WSGI door, the driver behind it and the engine behind that."""

    app: WSGIApplication
    driver: Driver
    engine: ScriptedEngine
    errors: io.StringIO = field(default_factory=io.StringIO)

    def open(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> WsgiExchange:
        return WsgiExchange(self.app, self.environ(method, path, body, headers))

    def environ(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> WSGIEnvironment:
        path, _, query = path.partition("?")
        environ: WSGIEnvironment = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path.encode().decode("latin-1"),
            "QUERY_STRING": query,
            "CONTENT_LENGTH": str(len(body)),
            "SERVER_NAME": "test",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": self.errors,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in (headers or {}).items():
            key = name.upper().replace("-", "_")
            environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = value
        return environ

    def request(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Response:
        return self.open(method, path, body, headers).response()

    def open_generate(self, prompt: str, stream: bool = True, **fields: Any) -> WsgiExchange:
        body = json.dumps({"prompt": prompt, "stream": stream, **fields}).encode()
        return self.open("POST", "/generate", body, {"content-type": "application/json"})

    def post(self, content: Any, headers: dict[str, str] | None = None) -> Response:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.request("POST", "/generate", body, {"content-type": "application/json"} | (headers or {}))


@contextmanager
def pulled_by_hand(engine: ScriptedEngine | None = None, config: Config | None = None) -> Iterator[WsgiService]:
    engine = engine or ScriptedEngine()
    driver = Driver(config or Config(), lambda config: engine)
    service = WsgiService(raw_wsgi.create_app(driver), driver, engine)
    driver.start()
    wait_until(lambda: driver.status == "ok", "the engine's start")
    try:
        yield service
    finally:
        engine.release()


def wsgi_app(blocks: Iterable[bytes]) -> WSGIApplication:
    """An application that answers any request with these blocks."""

    def app(environ: WSGIEnvironment, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("content-type", "text/plain")])
        return blocks

    return app


def scripted_wsgi_app(seconds_per_step: float) -> WSGIApplication:
    """`gunicorn "tests.support.wsgi_client:scripted_wsgi_app(0)"` serves the door with a scripted engine."""
    config = Config.from_environment_or_exit()
    return raw_wsgi.create_app(Driver(config, lambda config: ScriptedEngine(seconds_per_step=seconds_per_step)))
