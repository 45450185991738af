"""The doors with a transcript around them, for the suites that run once more to show that it changes nothing."""

import importlib
from typing import Any

import pytest

from serving.driver import Driver
from serving.transcript.asgi import Transcript
from tests.support.serving import DOORS, Door


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Door:
    """Takes the place of the fixture of the same name in a module that imports it."""
    create_app: Door = importlib.import_module(request.param).create_app

    def create_watched_app(driver: Driver) -> Any:
        return Transcript(create_app(driver))

    return create_watched_app
