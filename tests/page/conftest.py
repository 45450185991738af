"""Fixtures of the pages' tests: a browser, and a server."""

from collections.abc import Iterator
from typing import Any

import pytest

import raw_asgi
from tests.support.serving import Service, on_a_socket


@pytest.fixture
def service(browser: Any) -> Iterator[Service]:
    """The raw ASGI door. It comes after `browser`, so that no server starts for tests that are left out."""
    with on_a_socket(raw_asgi.create_app) as service:
        yield service
