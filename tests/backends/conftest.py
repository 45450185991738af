"""Tests of engines elsewhere do not wait for probes that come every few seconds."""

import pytest

from backends import remote


@pytest.fixture(autouse=True)
def _probes_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PROBE_INTERVAL", 0.02)
    monkeypatch.setattr(remote, "RETRY_INTERVAL", 0.02)
