"""Chooses and loads the engine service that the settings ask for."""

import dataclasses
import importlib
from types import ModuleType
from typing import cast

from config import PREFIX, Config, EngineSettings
from interface.engine import EngineService
from interface.errors import LoadError

MODULES = {
    "own": "backends.own",
    "vllm": "backends.vllm_engine",
    "sglang": "backends.sglang_server",
    "openai": "backends.openai_server",
}
"""For each backend a module with two names. `HONOURS` are the engine's settings that mean something to it;
`load(config)` returns an `EngineService` and may raise LoadError. It is imported only when it is chosen."""


def load_service(config: Config) -> EngineService:
    """Load an engine service, ready to be started on an event loop. Takes seconds; call it off the loop.

    Raises:
        LoadError: the model cannot be served, or a setting does not apply; the message says why.
    """
    if config.socket is not None:
        from backends.socket_service import SocketService
        from backends.wire import common_settings

        return SocketService(config.socket, common_settings(config))
    return load_engine_service(config)


def load_engine_service(config: EngineSettings) -> EngineService:
    """Load the service of the engine itself, also for the process that serves workers. See `load_service`."""
    module = importlib.import_module(MODULES[config.backend])
    check_settings(config, module)
    return cast(EngineService, module.load(config))


def check_settings(config: EngineSettings, module: ModuleType) -> None:
    """Raise LoadError if a setting was made that the backend would ignore."""
    fields = {setting.name: setting for setting in dataclasses.fields(config)}
    for name, value in config.of_engine.items():
        if name != "backend" and value != fields[name].default and name not in module.HONOURS:
            value_text = f"={value}" if fields[name].repr else ""  # not a secret
            raise LoadError(
                f"{PREFIX}{name.upper()}{value_text} does not apply to {PREFIX}BACKEND={config.backend}; leave it out."
            )
