"""The command lines of the programs in this folder."""

import argparse
import sys


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser for a program that is run by `python -m`; `description` is its module's docstring."""
    spec = sys.modules["__main__"].__spec__
    name = None if spec is None else f"python -m {spec.name.removesuffix('.__main__')}"
    return argparse.ArgumentParser(
        prog=name, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
