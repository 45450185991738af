"""Fixtures of the engine's tests: both choosers of tokens."""

from pathlib import Path

import pytest

from inference.cpp import build
from inference.cpp.library_cache import LibraryCache
from inference.sampling.choose import Chooser, NativeChooser
from inference.sampling.draw import choose


@pytest.fixture(scope="session")
def native_chooser(compiled_by_this_run: Path) -> NativeChooser:
    """The chooser in C++, compiled when a test first asks for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_kept", LibraryCache(compiled_by_this_run))
        return NativeChooser(threads=2)


@pytest.fixture(scope="session", params=["torch", "native"])
def chooser(request: pytest.FixtureRequest) -> Chooser:
    """The chooser in torch and the one in C++ in turn."""
    if request.param == "torch":
        return choose
    native: NativeChooser = request.getfixturevalue("native_chooser")
    return native
