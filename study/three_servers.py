"""Three servers for the page at `/lesson`: WSGI, Starlette and raw ASGI, each with an engine.

    make lesson
    python -m study.three_servers --port 8100

Each server is a process of its own. The WSGI one is gunicorn with one sync worker if it is installed, else wsgiref
from the standard library; either takes one request at a time. The page comes from the raw ASGI server, and may read
the others' answers because this program, and no door, says so to the browser (CORS), for exactly that one page.

Each server listens on two ports. A browser opens at most six connections to one address, and eight streams and
their health check are nine: on one port the browser itself would hold three of them back.
"""

if __name__ == "__main__":
    import serving.quiet_start  # noqa: F401  no traceback at Ctrl-C during the imports below

import argparse
import importlib
import importlib.util
import itertools
import multiprocessing
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any
from urllib.parse import urlencode
from wsgiref.simple_server import WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from backends.stepped import SteppedService
from config import Config
from interface.engine import EngineProtocol, EngineService
from serving import sync_driver
from serving.driver import Driver
from study.common.arguments import argument_parser
from study.common.client import Target
from study.common.http_servers import QuietHandler
from study.common.launcher import status_of

HOST = "127.0.0.1"
DOORS = ("wsgi", "starlette", "raw_asgi")
PORTS_EACH = 2
LOAD_PATIENCE = 300.0
"""Seconds that a model may take to load."""
GOODBYE = 6.0
"""Seconds that a server may take to end."""
ALLOWED_METHODS = ("GET", "POST")
ALLOWED_HEADERS = ("content-type", "x-request-id")


class ServerEnded(RuntimeError):
    """A server ended, or its engine failed to load."""


class Told(BaseException):
    """A signal has told this program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


# --- In each server's process -----------------------------------------------------------------------------------------


def serve(door: str, sockets: Sequence[socket.socket], origin: str, loader: str | None, wsgi_server: str) -> None:
    """Serve one door on `sockets` until a signal; `origin` is the page that may read its answers."""
    threading.Thread(target=_end_with_the_launcher, daemon=True).start()
    if door != "wsgi":
        serve_asgi(door, sockets, origin, loader)
    elif wsgi_server == "gunicorn":
        run_gunicorn(sockets, origin, loader)
    else:
        serve_one_at_a_time(wsgi_app(origin, loader), sockets)


def serve_asgi(door: str, sockets: Sequence[socket.socket], origin: str, loader: str | None) -> None:
    import uvicorn
    from starlette.middleware.cors import CORSMiddleware

    config = Config.from_environment_or_exit()
    create_app = importlib.import_module("app" if door == "starlette" else door).create_app
    app = create_app(Driver(config) if loader is None else Driver(config, stepped(loader)))
    app = CORSMiddleware(app, [origin], allow_methods=ALLOWED_METHODS, allow_headers=ALLOWED_HEADERS)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=int(GOODBYE) - 1))
    server.run(list(sockets))


def run_gunicorn(sockets: Sequence[socket.socket], origin: str, loader: str | None) -> None:
    """Run gunicorn with one sync worker, on sockets that are bound already."""
    descriptors = [listener.fileno() for listener in sockets]
    binds = [argument for descriptor in descriptors for argument in ("--bind", f"fd://{descriptor}")]
    app = f"study.three_servers:wsgi_app({origin!r}, {loader!r})"
    # By default gunicorn takes a sync worker for hung, and kills it, when a stream lasts longer than 30 s.
    arguments = ["--workers", "1", "--worker-class", "sync", "--timeout", "300", "--log-level", "warning", *binds, app]
    gunicorn = subprocess.Popen([sys.executable, "-m", "gunicorn", *arguments], pass_fds=descriptors)
    signal.signal(signal.SIGTERM, lambda number, frame: gunicorn.terminate())
    for listener in sockets:
        listener.close()
    raise SystemExit(gunicorn.wait())


def _end_with_the_launcher() -> None:
    """End this server when the launcher has ended, even if it was killed."""
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    wait([launcher.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def serve_one_at_a_time(app: WSGIApplication, sockets: Sequence[socket.socket]) -> None:
    """Serve as `wsgiref` does, on several sockets."""
    with selectors.DefaultSelector() as ready:
        for listener in sockets:
            ready.register(listener, selectors.EVENT_READ, _wsgiref_server(app, listener))
        while True:
            for key, _ in ready.select():
                key.data.handle_request()


def wsgi_app(origin: str, loader: str | None = None) -> WSGIApplication:
    """The WSGI door, readable for the page at `origin`; its engine begins to load."""
    import raw_wsgi

    config = Config.from_environment_or_exit()
    driver = sync_driver.Driver(config) if loader is None else sync_driver.Driver(config, loader_named(loader))
    driver.start()
    return allow_origin(raw_wsgi.create_app(driver), origin)


def allow_origin(app: WSGIApplication, origin: str) -> WSGIApplication:
    """CORS for a WSGI application: what Starlette's CORSMiddleware is for the others.

    Source: the Fetch standard, "CORS protocol".
    """
    allow = [("access-control-allow-origin", origin), ("vary", "origin")]
    preflight = [
        *allow,
        ("access-control-allow-methods", ", ".join(ALLOWED_METHODS)),
        ("access-control-allow-headers", ", ".join(ALLOWED_HEADERS)),
        ("access-control-max-age", "600"),
    ]

    def readable(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("HTTP_ORIGIN") != origin:
            return app(environ, start_response)
        if environ["REQUEST_METHOD"] == "OPTIONS":
            start_response("204 No Content", preflight)
            return []

        def start_allowed(
            status: str, headers: list[tuple[str, str]], exc_info: Any = None
        ) -> Callable[[bytes], object]:
            return start_response(status, headers + allow, exc_info)

        return app(environ, start_allowed)

    return readable


def loader_named(name: str) -> Callable[[Config], EngineProtocol]:
    """The function that `module:function` names."""
    module, _, function = name.partition(":")
    load: Callable[[Config], EngineProtocol] = getattr(importlib.import_module(module), function)
    return load


def stepped(loader: str) -> Callable[[Config], EngineService]:
    load = loader_named(loader)
    return lambda config: SteppedService(load(config))


def has_gunicorn() -> bool:
    return importlib.util.find_spec("gunicorn") is not None


def _wsgiref_server(app: WSGIApplication, listening: socket.socket) -> WSGIServer:
    server = WSGIServer((HOST, 0), QuietHandler, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    server.server_name, server.server_port = listening.getsockname()
    server.setup_environ()
    server.set_app(app)
    listening.listen(64)
    return server


# --- In the launcher --------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Start the three, print the page's address, and wait for Ctrl-C."""
    options = _parser().parse_args(arguments)
    # Three engines share the machine; each taking all of its cores would only make them wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // len(DOORS))))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    try:
        sockets = _bound_sockets(options.port)
        ports = {door: [listener.getsockname()[1] for listener in both] for door, both in sockets.items()}
        origin = f"http://{HOST}:{ports['raw_asgi'][0]}"
        with _running(sockets, origin, options.load, options.wsgi_server) as processes:
            print(f"Starting {len(DOORS)} servers, each with an engine of its own …", flush=True)
            for door in DOORS:
                _wait_until_healthy(processes[door], ports[door][0])
            print(f"\n    {page_address(origin, ports, options.wsgi_server)}\n\nCtrl-C ends all three.", flush=True)
            wait([process.sentinel for process in processes.values()])
            raise ServerEnded("a server has ended; see above")
    except Told as told:
        signal.signal(told.signal, signal.SIG_DFL)
        signal.raise_signal(told.signal)  # this process, too, has ended by it for its caller
    except (OSError, ServerEnded) as error:
        raise SystemExit(f"error: {error}") from None


def page_address(origin: str, ports: dict[str, list[int]], wsgi_server: str) -> str:
    query = {door: ",".join(map(str, numbers)) for door, numbers in ports.items()}
    query["wsgi_server"] = wsgi_server
    return f"{origin}/lesson?{urlencode(query, safe=',')}"


def _parser() -> argparse.ArgumentParser:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--port", type=int, default=8100, help="the first of six ports; 0 takes free ones (default: %(default)s)"
    )
    parser.add_argument(
        "--wsgi-server",
        choices=("gunicorn", "wsgiref"),
        default="gunicorn" if has_gunicorn() else "wsgiref",
        help="what serves the WSGI door (default here: %(default)s)",
    )
    parser.add_argument("--load", metavar="MODULE:FUNCTION", help="another engine: a function from Config to it")
    return parser


def _bound_sockets(first: int) -> dict[str, list[socket.socket]]:
    """Bind two sockets for each door. They are bound here, so that no other program can take a chosen port."""
    ports = itertools.count(first) if first else itertools.repeat(0)
    return {door: [_bound(port) for port in itertools.islice(ports, PORTS_EACH)] for door in DOORS}


def _bound(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise OSError(f"port {port} cannot be used ({error.strerror}); choose others with --port") from None
    return listener


@contextmanager
def _running(
    sockets: dict[str, list[socket.socket]], origin: str, loader: str | None, wsgi_server: str
) -> Iterator[dict[str, BaseProcess]]:
    """The three processes; whatever happens, none of them outlives the block."""
    spawn = multiprocessing.get_context("spawn")
    processes: dict[str, BaseProcess] = {}
    try:
        # A terminal sends Ctrl-C to us all. The servers inherit that it is to be ignored, and are ended below.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for door, both in sockets.items():
            processes[door] = spawn.Process(target=serve, args=(door, both, origin, loader, wsgi_server), name=door)
            processes[door].start()
            for listener in both:
                listener.close()  # the server's own from now on: when it ends, the port must be closed
        signal.signal(signal.SIGINT, _leave)
        yield processes
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.join(GOODBYE)
            process.kill()


def _wait_until_healthy(process: BaseProcess, port: int) -> None:
    give_up_at = time.monotonic() + LOAD_PATIENCE
    while (status := status_of(Target.on_port(port))) != "ok":
        if not process.is_alive():
            raise ServerEnded(f"the {process.name} server ended while starting; see above")
        if status is not None and status != "loading":
            raise ServerEnded(f"the {process.name} server takes no requests: {status}")
        if time.monotonic() > give_up_at:
            raise ServerEnded(f"the {process.name} server did not start in {LOAD_PATIENCE:.0f} s")
        time.sleep(0.1)


def _leave(number: int, frame: FrameType | None) -> None:
    raise Told(number)


if __name__ == "__main__":
    main()
