"""The applications of the comparison: each door and the article's server, on one of two engines.

COMPARE_ENGINE is `paced` for the engine without a model, or `model` for the real one.
"""

import os
from typing import Any
from wsgiref.types import WSGIApplication

from backends import own
from backends.own_engine import load_engine
from backends.stepped import SteppedService
from config import Config
from interface.engine import EngineProtocol, EngineService
from study.common.engine import instant_engine


def is_paced() -> bool:
    return os.environ["COMPARE_ENGINE"] == "paced"


def load(config: Config) -> EngineProtocol:
    return instant_engine() if is_paced() else load_engine(config)


def load_service(config: Config) -> EngineService:
    return SteppedService(instant_engine()) if is_paced() else own.load(config)


def starlette() -> Any:
    import app
    from serving.driver import Driver

    return app.create_app(Driver(Config.from_environment_or_exit(), load_service))


def raw_asgi() -> Any:
    import raw_asgi
    from serving.driver import Driver

    return raw_asgi.create_app(Driver(Config.from_environment_or_exit(), load_service))


def raw_wsgi() -> WSGIApplication:
    import raw_wsgi
    from serving.sync_driver import Driver

    return raw_wsgi.create_app(Driver(Config.from_environment_or_exit(), load))


def article() -> Any:
    from serving.sync_driver import Driver
    from study.common.article import create_app, of_driver

    return create_app(*of_driver(Driver(Config.from_environment_or_exit(), load)))
