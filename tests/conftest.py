"""Fixtures of all tests: the doors, one event loop, and one folder for compiled code."""

import gc
import importlib
import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from inference.cpp import build, library_cache
from inference.cpp.library_cache import LibraryCache
from serving import process
from tests.support.serving import DOORS, Door
from tests.support.units_once import each_once

# The same examples each time, and no limit on the time that one takes: a test must not depend on a machine's mood.
settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# A shell lets what it starts in the background ignore Ctrl-C, and nohup a closed terminal. So would all processes that
# tests start, which do not inherit a handler.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda number, frame: None)

gc.disable()  # until all tests are collected: their imports make hundreds of thousands of objects, and all of them stay


def pytest_collection_finish() -> None:
    """From here on the garbage collector looks only at what the tests themselves make."""
    gc.freeze()
    gc.enable()


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Door:
    """`create_app` of each door in turn: a test that asks for it runs against both."""
    create_app: Door = importlib.import_module(request.param).create_app
    return create_app


@pytest.fixture(autouse=True)
def ends(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An engine that fails must not end the tests; what it would have done is listed here."""
    calls: list[str] = []
    monkeypatch.setattr(process, "begin_to_end", lambda limit, exit_status: calls.append(f"begin {exit_status}"))
    monkeypatch.setattr(process, "end_now", lambda exit_status: calls.append(f"now {exit_status}"))
    return calls


@pytest.fixture(scope="session")
def compiled_by_this_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes of a test run keep what they compile, for one another and for no other run."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "compiled"


@pytest.fixture(autouse=True)
def compiled_once(compiled_by_this_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same source is compiled once in a run; what a test says of where to keep it does not outlast the test."""
    libraries = LibraryCache(compiled_by_this_run)
    monkeypatch.setattr(build, "_kept", libraries)
    monkeypatch.setattr(build, "_run", each_once(build._run, libraries, compiled_by_this_run.with_name("units")))
    monkeypatch.setattr(library_cache, "MAX_LIBRARIES", 1000)  # more than there are: none is compiled again
    monkeypatch.setattr(build, "SECONDS", 600)  # a busy machine compiles slowly


@pytest.fixture
def anyio_backend() -> str:
    """The loop that uvicorn runs on."""
    return "asyncio"
