"""Chooses and loads the engine service that the settings ask for."""

from backends.own_engine import load_engine
from backends.stepped import SteppedService
from config import Config
from interface.engine import EngineService


def load_service(config: Config) -> EngineService:
    """Load an engine, ready to be started on an event loop. Takes seconds; call it off the loop.

    Raises:
        LoadError: the model cannot be served; the message says why.
    """
    return SteppedService(load_engine(config), config.step_limit)
