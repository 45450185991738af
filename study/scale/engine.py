"""Scripted engines for the replicas, so that only the way to them is tested and measured."""

import importlib
import os
import time
from typing import Any

from config import Config
from interface.engine import EngineService
from serving.driver import Driver
from study.common.scripted_workers import scripted_service as scripted  # for `load=study.scale.engine:scripted`

LOAD_SECONDS = 3.0


def slowly_loaded(config: Config) -> EngineService:
    """The same after some seconds, as with a model."""
    time.sleep(LOAD_SECONDS)
    return scripted(config)


def app() -> Any:
    """For `uvicorn --factory study.scale.engine:app`: DOOR's door with the scripted engine, without Ray."""
    create_app = importlib.import_module(os.environ["DOOR"]).create_app
    return create_app(Driver(Config.from_environment(), scripted))
