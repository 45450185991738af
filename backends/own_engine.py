"""Loads our own engine, for a service or for callers that step it themselves. No event loop here."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from backends.missing_folders import make_up_for_missing_folders
from config import EngineSettings
from interface.engine import EngineProtocol
from interface.errors import LoadError

NO_MEMORY = ("allocate memory", "failed to map segment", "could not create a primitive", "can't start new thread")
"""What torch, the system's loader, oneDNN and Python say when there is no memory left, not even for a thread's stack.
They raise exceptions of all kinds."""


def load_engine(config: EngineSettings) -> EngineProtocol:
    """Load our own engine.

    Importing it takes seconds, so that happens here, together with the model, and not at a door.

    Raises:
        LoadError: the model cannot be served; the message says why.
    """
    if config.backend != "own":  # for a driver that steps the engine itself
        raise LoadError(f"Expected ENGINE_BACKEND=own, the only engine that can be stepped here, got {config.backend}.")
    with _without_collector(), _reporting_lack_of_memory(config.model):
        from inference.early_compilers import compile_ahead
        from inference.weights.gguf.ahead import OPENED
        from inference.weights.lean_transformers import defer_model_classes
        from inference.weights.memory_ahead import AHEAD

        make_up_for_missing_folders()
        compile_ahead(config)
        defer_model_classes()
        from engine import Engine

        # The libraries and the model are hundreds of thousands of objects that stay. If the garbage collector checked
        # them, it would stop the whole process for a tenth of a second now and then. The garbage that the imports left
        # is kept as well: it is little, and finding it takes longer than loading the model.
        gc.freeze()
        try:
            engine = Engine.load(config)
        finally:
            AHEAD.give_back()
            OPENED.give_back()
    gc.collect()
    gc.freeze()
    give_back_freed_memory()
    return engine


def give_back_freed_memory() -> None:
    """Return to the system what has been freed. glibc keeps what lies below anything that is still in use: of a load of
    1.1 billion weights 0.1 GB.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def _reporting_lack_of_memory(model: str) -> Iterator[None]:
    """Raise a LoadError where a library, or what tells its errors, finds no memory."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in NO_MEMORY):
            raise
        raise LoadError(
            f"{model}: there is not enough memory to load it, or a limit (ulimit -v or -u, a container's) leaves too "
            "little"
        ) from error


@contextmanager
def _without_collector() -> Iterator[None]:
    """Turn the garbage collector off: loading makes hundreds of thousands of objects that stay, and checking them
    again and again takes a second.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
