"""The doors' tests run on both doors, each alone and with a transcript around it, which must change nothing."""

import importlib
from itertools import product
from typing import Any

import pytest

from serving.driver import Driver
from serving.transcript.asgi import Transcript
from tests.support.serving import DOORS, Door

ALONE, WITH_TRANSCRIPT = "alone", "with transcript"


@pytest.fixture(params=product(DOORS, (ALONE, WITH_TRANSCRIPT)), ids=", ".join)
def door(request: pytest.FixtureRequest) -> Door:
    name, how = request.param
    create_app: Door = importlib.import_module(name).create_app

    def create_watched_app(driver: Driver) -> Any:
        return Transcript(create_app(driver))

    return create_app if how == ALONE else create_watched_app
