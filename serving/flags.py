"""Each setting of `Config` as a flag; a flag wins over the environment."""

import argparse
import dataclasses
import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from config import PREFIX, AccessSettings, ClientSettings, Config, ConfigError, EngineSettings, ModelSettings

SECTIONS = {
    "model": ModelSettings,
    "engine": EngineSettings,
    "connections and streams": ClientSettings,
    "access": AccessSettings,
    "server": Config,
}
"""The settings as `--help` shows them: under each title those of a group that no title before has."""


def add_settings(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Each setting is also an environment variable, whose name is in parentheses."
    shown: set[str] = set()
    for title, group in SECTIONS.items():
        own = [setting for setting in dataclasses.fields(group) if setting.name not in shown]
        shown |= {setting.name for setting in own}
        _add_section(parser.add_argument_group(title), own)


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line. An unknown flag ends the program with the name of one that is nearly the same."""
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [flag for action in parser._actions for flag in action.option_strings]
        near = difflib.get_close_matches(unknown[0].partition("=")[0], known, n=1, cutoff=0.7)
        hint = f"did you mean {near[0]}?" if near else "--help lists the flags"
        parser.error(f"unrecognized arguments: {' '.join(unknown)}; {hint}")
    return options


def _add_section(group: argparse._ArgumentGroup, settings: Iterable["dataclasses.Field[Any]"]) -> None:
    for setting in settings:
        flag = "--" + setting.name.replace("_", "-")
        help = f"{setting.metadata['help']} ({PREFIX + setting.name.upper()}{_default(setting)})"
        if isinstance(setting.default, bool):
            group.add_argument(flag, action="store_true", default=None, help=help)
        else:
            group.add_argument(flag, type=_argument(setting.metadata["parse"]), metavar="VALUE", help=help)


def _default(setting: "dataclasses.Field[Any]") -> str:
    """The part of a setting's help that names its default; empty if the default is off."""
    return "" if setting.default in (None, (), False) else f"; default: {setting.default}".replace("%", "%%")


def chosen_config(options: argparse.Namespace) -> Config:
    """Read the settings from the environment, and replace those that were given as flags."""
    settings = {
        setting.name: value
        for setting in dataclasses.fields(Config)
        if (value := getattr(options, setting.name)) is not None
    }
    return dataclasses.replace(Config.from_environment_or_exit(), **settings)


def _argument(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Wrap a setting's parser for argparse, which shows only messages of its own exception to the user."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert
