"""The clusters that these tests run on: `make test-scale`. Each test runs behind Ray's own proxy and behind HAProxy."""

from collections.abc import Iterator

import pytest

from study.scale.cluster import Cluster, cluster

PROXIES = {"ray-proxy": False, "haproxy": True}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder: it needs Ray's environment, and `make test` leaves it out."""
    for item in items:
        if "tests/scale/" in item.path.as_posix():
            item.add_marker(pytest.mark.scale)
            item.add_marker(pytest.mark.timeout(180))


@pytest.fixture(scope="session", params=PROXIES)
def ray(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with cluster(ha_proxy=PROXIES[request.param]) as started:
        yield started
