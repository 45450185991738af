"""Each setting of `Config` as a flag; a flag wins over the environment."""

import argparse
import dataclasses
from collections.abc import Callable, Iterable
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
