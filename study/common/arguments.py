"""The command lines of the programs in this folder."""

import argparse
import signal
import sys
from types import TracebackType


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser for a program that is run by `python -m`; `description` is its module's docstring.

    From here on Ctrl-C ends the program without a traceback, once it has ended what it started.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # see `serving.quiet_start`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.excepthook = _show_unless_interrupted
    spec = sys.modules["__main__"].__spec__
    name = None if spec is None else f"python -m {spec.name.removesuffix('.__main__')}"
    return argparse.ArgumentParser(
        prog=name, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _show_unless_interrupted(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
