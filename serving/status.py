"""Whether requests are taken, and if not, why not: the status in `/health`, which both drivers check."""

import logging
import os
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from config import Config
from interface.errors import EngineFailed, EngineUnavailable, LoadError
from serving.logs import set_up_logging

log = logging.getLogger("engine")

Loaded = TypeVar("Loaded")


class EngineStatus:
    """`text` is "ok", or the reason why no requests are taken; `has_failed` is whether only a restart can help."""

    def __init__(self, config: Config, text: str) -> None:
        self.has_failed = False
        self._config = config
        self._text = text
        self._outage: str | None = None
        self._began_at = 0.0

    @property
    def text(self) -> str:
        return self._outage if self._text == "ok" and self._outage is not None else self._text

    @cached_property
    def models(self) -> tuple[str, ...]:
        """The names under which the model is served: as the settings say, or its own without the folders above it."""
        if self._config.model_name is not None:
            return tuple(self._config.model_name.split(","))
        path = Path(self._config.model)
        is_path = path.is_absolute() or path.exists()
        return (os.path.basename(os.path.abspath(path)) if is_path else self._config.model,)  # "." has no name itself

    def begin(self) -> None:
        """Note that an engine is about to be loaded, and set up the log for what is said from now on."""
        self._text = "loading"
        set_up_logging(self._config.log_format)

    def load(self, load: Callable[[Config], Loaded]) -> Loaded | None:
        """Load an engine, which may take seconds or, from a hub, minutes; None if it cannot be loaded."""
        if self._config.socket is None:  # otherwise the engine's own process says so, once for all workers
            log.info("Loading %s …", self.models[0])
        self._began_at = time.perf_counter()
        try:
            return load(self._config)
        except Exception as error:
            self.fail_to_load(error)
            return None

    def fail_to_load(self, error: Exception) -> None:
        """Log why there is no engine, with a traceback unless it is the user's mistake."""
        is_users_mistake = isinstance(error, LoadError)
        reason = str(error).encode(errors="backslashreplace").decode()  # names of files may be no text, unlike JSON
        log.error("The model could not be loaded: %s", reason, exc_info=None if is_users_mistake else error)
        self.fail(f"failed to load: {self._without_folders(reason)}")

    def accept(self) -> None:
        """Take requests from now on, unless there is a reason not to."""
        if self._text == "loading":
            self._text = "ok"
            log.info("%s is ready after %.1f s", self.models[0], time.perf_counter() - self._began_at)

    def interrupt(self, reason: str | None) -> None:
        """Take no requests until this is called without a reason."""
        self._outage = None if reason is None else f"engine lost: {reason}"

    def unavailable(self) -> EngineUnavailable:
        """Return the error to raise while no requests are taken."""
        return (EngineFailed if self.has_failed else EngineUnavailable)(f"The engine is not available: {self.text}")

    def refuse(self, reason: str) -> None:
        """Take no more requests; the first reason stays."""
        if self._text in ("ok", "loading"):
            self._text = reason

    def fail(self, reason: str) -> None:
        """Take no more requests, for good."""
        self.refuse(reason)
        self.has_failed = True

    def _without_folders(self, message: str) -> str:
        """Return a message for clients, without the model's folder on this machine."""
        return message.replace(self._config.model, self.models[0])
