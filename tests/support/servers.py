"""The supported ASGI servers, each in a thread of this process.

What a client meets must not depend on it; docs/operations.md says where it does.
"""

import asyncio
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from study.common.http_servers import PATIENCE, serving_in_a_thread

# Each server is imported where it is used: processes that tests start use one of them, or none.


def on_uvicorn(app: Any, **settings: Any) -> AbstractContextManager[int]:
    """Serve with uvicorn until the block ends; the port. `settings` are its own."""
    patient = {"timeout_keep_alive": int(PATIENCE), "timeout_graceful_shutdown": int(PATIENCE)}
    return serving_in_a_thread(app, **{"http": "h11", **patient, **settings})


def on_uvicorn_standard(app: Any, **settings: Any) -> AbstractContextManager[int]:
    """Serve as uvicorn does when it is installed as `uvicorn[standard]`."""
    import uvloop

    return on_uvicorn(app, http="httptools", new_loop=uvloop.new_event_loop, **settings)


@contextmanager
def on_hypercorn(app: Any, root_path: str = "") -> Iterator[int]:
    """Serve with hypercorn until the block ends; the port."""
    import hypercorn.asyncio
    import hypercorn.config

    config = hypercorn.config.Config()
    config.errorlog, config.graceful_timeout, config.root_path = None, 1.0, root_path
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config.bind = [f"fd://{listener.fileno()}"]
        port: int = listener.getsockname()[1]
        ending = asyncio.Event()
        serve = partial(hypercorn.asyncio.serve, app, config, shutdown_trigger=ending.wait)
        try:
            with _in_a_thread(serve, ending.set):
                yield port
        finally:
            listener.detach()  # hypercorn has closed it


@contextmanager
def kept_port() -> Iterator[int]:
    """A port for a server that does not tell the one it gets. Meanwhile the system gives it to no other program.

    A socket is bound to it. On Linux a server may listen there nonetheless, as both are willing to share the address.
    """
    with socket.socket() as keeping:
        keeping.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeping.bind(("127.0.0.1", 0))
        port: int = keeping.getsockname()[1]
        if sys.platform != "linux":
            keeping.close()
        yield port


@contextmanager
def on_granian(app: Any, root_path: str = "") -> Iterator[int]:
    """Serve with granian until the block ends; the port."""
    from granian.constants import Interfaces
    from granian.server.embed import Server as Granian

    with kept_port() as port:
        server = Granian(
            app, port=port, interface=Interfaces.ASGI, log_enabled=False, url_path_prefix=root_path or None
        )
        with _in_a_thread(server.serve, server.stop):
            yield port


SERVERS: dict[str, Callable[..., AbstractContextManager[int]]] = {
    "uvicorn": on_uvicorn,
    "uvicorn[standard]": on_uvicorn_standard,
    "hypercorn": on_hypercorn,
    "granian": on_granian,
}


@contextmanager
def _in_a_thread(serve: Callable[[], Awaitable[None]], end: Callable[[], None]) -> Iterator[None]:
    """Run a server on a loop in a thread; `end`, called on that loop, has it end."""
    loop = asyncio.new_event_loop()

    async def work() -> None:
        await serve()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(work())

    thread = threading.Thread(target=run, name="server", daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(end)
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the server did not end"
