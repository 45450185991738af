"""HTTP servers inside this process: uvicorn on the running loop or in a thread, and the standard library's for WSGI."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import WSGIApplication

import uvicorn

PATIENCE = 30.0
"""Seconds that a server may take to start or to end."""


@asynccontextmanager
async def serving(app: Callable[..., Any], **settings: Any) -> AsyncIterator[int]:
    """Serve an ASGI application on the running loop, on a free port of this machine, which is what the `with` gets.

    `settings` are uvicorn's.
    """
    defaults = {"http": "h11", "loop": "asyncio", "log_level": "critical", "timeout_graceful_shutdown": 1}
    server = uvicorn.Server(uvicorn.Config(app, port=0, **{"lifespan": "off", **defaults, **settings}))
    task = asyncio.create_task(server.serve())
    try:
        while not server.started and not task.done():  # noqa: ASYNC110  (uvicorn has no event for it)
            await asyncio.sleep(0.01)
        if not server.started:
            raise RuntimeError(f"the server did not start: {task.exception()}")
        yield port_of(server)
    finally:
        server.should_exit = True
        await task


@contextmanager
def serving_in_a_thread(
    app: Callable[..., Any],
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    **settings: Any,
) -> Iterator[int]:
    """Serve an ASGI application with uvicorn in a thread; the port. `settings` are uvicorn's."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on", **settings))

    def run() -> None:
        # The loop that uvicorn would take for itself depends on what else is installed.
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(server.serve())

    thread = threading.Thread(target=run, name="uvicorn", daemon=True)
    thread.start()
    give_up_at = time.monotonic() + PATIENCE
    while not server.started:
        assert time.monotonic() < give_up_at, "the server did not start"
        time.sleep(0.002)
    try:
        yield port_of(server)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the server did not end"


def port_of(server: uvicorn.Server) -> int:
    port: int = server.servers[0].sockets[0].getsockname()[1]
    return port


class QuietHandler(WSGIRequestHandler):
    """Logs nothing."""

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def serving_wsgi(app: WSGIApplication, server_class: type[WSGIServer]) -> Iterator[int]:
    """Serve a WSGI application with the standard library's server, in a thread; the port."""
    with server_class(("127.0.0.1", 0), QuietHandler) as server:
        server.set_app(app)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join(PATIENCE)
