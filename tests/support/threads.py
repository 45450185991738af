"""A system that gives no more threads."""

import threading

import pytest

from backends.threads import DaemonThread


def refuse_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no thread be started from now on, and hold none in reserve."""
    monkeypatch.setattr(threading.Thread, "start", _refuse)
    monkeypatch.setattr(DaemonThread, "idle", type(DaemonThread.idle)())


def _refuse(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
