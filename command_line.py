"""The command line that both doors share: `python app.py` and `python raw_asgi.py`.

Each setting of `Config` is a flag; a flag wins over the environment.
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn

from config import PREFIX, Config, ConfigError
from demo import run_demo
from driver import Driver

SHUTDOWN_SLACK = 1.5
"""Seconds beyond `drain` after which the server itself ends what is still open."""


def main(create_app: Callable[[Driver], Any], description: str | None, arguments: Sequence[str] | None = None) -> None:
    """Serve, or with `--demo` show what serving looks like."""
    options = _parser(description).parse_args(arguments)
    settings = {
        setting.name: value
        for setting in dataclasses.fields(Config)
        if (value := getattr(options, setting.name)) is not None
    }
    config = dataclasses.replace(Config.from_environment_or_exit(), **settings)
    app = create_app(Driver(config))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=options.host,
            port=options.port,
            log_level="warning" if options.demo else "info",
            timeout_graceful_shutdown=int(config.drain + SHUTDOWN_SLACK),
        )
    )
    if options.demo:
        run_demo(server)
    else:
        server.run()


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    parser.add_argument("--demo", action="store_true", help="ask a few prompts in the terminal instead of serving")
    for setting in dataclasses.fields(Config):
        flag = "--" + setting.name.replace("_", "-")
        variable = PREFIX + setting.name.upper()
        parser.add_argument(
            flag, type=_argument(setting.metadata["parse"]), help=f"{setting.metadata['help']} ({variable})"
        )
    return parser


def _argument(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A setting's parser as argparse wants it: its message reaches the user, without a traceback."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert
