"""A system that gives no more threads."""

import threading
from collections import deque

import pytest

from backends.threads import DaemonThread


def refuse_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no thread be started from now on, and hold none in reserve."""
    monkeypatch.setattr(threading.Thread, "start", _refuse)
    # A thread of an earlier test that comes back later is not kept either.
    monkeypatch.setattr(DaemonThread, "idle", deque(maxlen=0))


def _refuse(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
