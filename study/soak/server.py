"""The server that is soaked: a door on the bundled model, some of whose steps raise.

DOOR=raw_asgi python -m uvicorn --factory study.soak.server:flawed_app
"""

import importlib
import os
from typing import Any

from backends.stepped import SteppedService
from config import Config
from interface.engine import EngineService
from serving.driver import Driver

RAISE_EVERY = 400
"""Steps from one that raises to the next."""


def flawed_app() -> Any:
    """DOOR's application, configured by the environment."""
    return importlib.import_module(os.environ["DOOR"]).create_app(Driver(Config.from_environment_or_exit(), _load))


def _load(config: Config) -> EngineService:
    from engine import Engine

    engine = Engine.load(config)
    runner: Any = engine._runner
    step = runner.step
    steps = 0

    def flawed_step(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps % RAISE_EVERY == 0:
            raise RuntimeError("a step that raises now and then")
        return step(*arguments)

    runner.step = flawed_step
    return SteppedService(engine, config.step_limit)
