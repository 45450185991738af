"""What the tests of official clients share."""

from collections.abc import Iterator

import pytest

from tests.support.serving import Door, Service, on_a_socket


@pytest.fixture
def service(door: Door) -> Iterator[Service]:
    """A real uvicorn on the scripted engine, through each door."""
    with on_a_socket(door) as service:
        yield service
