"""The command line that the doors share: `python app.py`, `python raw_asgi.py` and `python raw_wsgi.py`.

Each setting of `Config` is a flag; a flag wins over the environment.
"""

import argparse
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIServer, make_server
from wsgiref.types import WSGIApplication

import uvicorn

from config import Config, ConfigError
from serving import sync_driver, workers
from serving.access import warn_if_open
from serving.demo import run_demo
from serving.driver import Driver
from serving.file_limit import require_files
from serving.flags import add_settings, chosen_config, parsed
from serving.logs import set_up_logging
from serving.protocol import SlicedH11
from serving.standard_streams import open_closed_streams
from serving.wsgi_server import handler_of, server_class

MAX_PORT = 65535
SHUTDOWN_SLACK = 1.5
"""Seconds beyond `drain` after which the server itself ends what is still open."""


def main(create_app: Callable[[Driver], Any], description: str | None, arguments: Sequence[str] | None = None) -> None:
    """Serve an ASGI door, in one process or with `--workers`, or run the demo with `--demo`."""
    open_closed_streams()
    parser = _parser(description)
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--demo", action="store_true", help="ask a few prompts in the terminal instead of serving")
    forms.add_argument(
        "--workers", type=_count, help="serve with this many processes, over one engine in a process of its own"
    )
    add_settings(parser)
    options = parsed(parser, arguments)
    require_files()
    config = chosen_config(options)
    set_up_logging(config.log_format)
    warn_if_open(options.host, config)
    if options.workers is not None:
        door = f"{Path(inspect.getfile(create_app)).stem}:app"
        try:
            raise SystemExit(workers.serve(_uvicorn_config(door, options, config), config))
        except ConfigError as error:
            parser.error(str(error))
    server = uvicorn.Server(_uvicorn_config(create_app(Driver(config)), options, config))
    if options.demo:
        run_demo(server)
    else:
        server.run()


def _uvicorn_config(app: Any, options: argparse.Namespace, config: Config) -> uvicorn.Config:
    made = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        workers=options.workers or 1,
        log_level="warning" if options.demo else "info",
        http=SlicedH11,  # httptools loses the body of a request that offers h2c, as Java's client does by default
        timeout_keep_alive=math.ceil(config.keep_alive),
        timeout_graceful_shutdown=math.ceil(config.drain + SHUTDOWN_SLACK),
    )
    set_up_logging(config.log_format)  # also of the handlers that this has made
    return made


def main_wsgi(
    create_app: Callable[[sync_driver.Driver], WSGIApplication],
    description: str | None,
    arguments: Sequence[str] | None = None,
) -> None:
    """Serve on the standard library's WSGI server, which answers one request at a time, `/health` too."""
    open_closed_streams()
    parser = _parser(description)
    parser.add_argument("--threads", action="store_true", help="give each request a thread, instead of one at a time")
    add_settings(parser)
    options = parsed(parser, arguments)
    require_files()
    driver = sync_driver.Driver(chosen_config(options))
    set_up_logging(driver.config.log_format)
    warn_if_open(options.host, driver.config, "Serve app.py or raw_asgi.py, which can ask for one.")
    with _listening(options, create_app(driver), driver.config) as server:
        driver.start()
        with suppress(OSError):  # nothing takes what is printed: a full disk, or the end of a pipe
            print(f"Serving on http://{_in_url(options.host)}:{server.server_port}", file=sys.stderr)
        server.serve_forever()


def _listening(options: argparse.Namespace, app: WSGIApplication, config: Config) -> WSGIServer:
    """The standard library's server, bound to its port. Raises SystemExit if that cannot be."""
    kind = server_class(config, options.host, options.threads)
    try:
        return make_server(options.host, options.port, app, kind, handler_of(config))
    except OSError as error:
        raise SystemExit(
            f"error: cannot listen on {_in_url(options.host)}:{options.port}: {error.strerror or error}"
        ) from None


def _in_url(host: str) -> str:
    """Write an address as in a URL."""
    return f"[{host}]" if ":" in host else host


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        usage="%(prog)s [--host HOST] [--port PORT] [--SETTING VALUE ...]",  # all settings would bury an error below
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--host", type=_host, default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=8000, help="port to listen on (default: %(default)s)")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _host(text: str) -> str:
    """An address or a name. Empty, as of a variable that is not set, it would be every address of this machine."""
    with suppress(UnicodeError):
        if text.strip() and text.encode("idna"):  # as the resolver does, which would raise it
            return text
    raise argparse.ArgumentTypeError(f"expected an address or a host name, got {text!r}")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_PORT:
        raise argparse.ArgumentTypeError(f"expected a port from 0 (any free one) to {MAX_PORT}, got {text!r}")
    return int(text)
