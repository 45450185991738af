"""What every driver keeps, whichever way it drives: the engine while there is one, and the account of each generation.

`driver.py` drives for an event loop, `sync_driver.py` for threads that block; neither says here how.
"""

import gc
import logging
import time
from collections.abc import Callable
from pathlib import Path

from config import Config
from interface.request import (
    Counters,
    EngineUnavailable,
    EngineVerbs,
    Event,
    Failed,
    Finished,
    LoadError,
    Token,
)
from serving.logs import set_up_logging

log = logging.getLogger("engine")
access_log = logging.getLogger("engine.access")


def load_engine(config: Config) -> EngineVerbs:
    """Load the real engine. Importing it takes seconds, so that happens here, with the model, and not at a door."""
    from engine import Engine

    engine = Engine.load(config)
    # The libraries and the model are hundreds of thousands of objects that stay. Left among those that the garbage
    # collector looks through, they would stop the whole process for a tenth of a second now and then.
    gc.collect()
    gc.freeze()
    return engine


class Service:
    """One engine, and why there is none: `status` is "ok", or the reason why no requests are taken."""

    def __init__(self, config: Config, load: Callable[[Config], EngineVerbs], status: str) -> None:
        self.config = config
        self.status = status
        self._load = load
        self._engine: EngineVerbs | None = None

    @property
    def model(self) -> str:
        """The model's name, without the folders above it."""
        return Path(self.config.model).name if Path(self.config.model).is_dir() else self.config.model

    def counters(self) -> Counters:
        return Counters(0, 0, 0) if self._engine is None else self._engine.counters()

    def available_engine(self) -> EngineVerbs:
        """The engine, to ask something of it now. Raises EngineUnavailable."""
        if self._engine is None or self.status != "ok":
            raise EngineUnavailable(f"The engine is not available: {self.status}")
        return self._engine

    def load(self) -> EngineVerbs | None:
        """Load the engine, which may take seconds or, from a hub, minutes; None if it cannot be loaded."""
        set_up_logging()
        self.status = "loading"
        log.info("Loading %s …", self.model)
        began = time.perf_counter()
        try:
            self._engine = self._load(self.config)
        except Exception as error:
            is_users_mistake = isinstance(error, LoadError)
            log.error("The model could not be loaded: %s", error, exc_info=None if is_users_mistake else error)
            self.status = f"failed to load: {error}"
            return None
        if self.status == "loading":
            self.status = "ok"
        log.info("%s is ready after %.1f s", self.model, time.perf_counter() - began)
        return self._engine

    def refuse(self, status: str) -> None:
        """Take no more requests, for the reason that `status` gives; the first reason stays."""
        if self.status in ("ok", "loading"):
            self.status = status


class Account:
    """How one generation goes: who it is, what has come, how it ended. It writes the access log's line."""

    def __init__(self, request_id: str, prompt_tokens: int) -> None:
        self.end: Finished | Failed | None = None
        self._request_id = request_id
        self._prompt_tokens = prompt_tokens
        self._completion_tokens = 0
        self._opened_at = time.perf_counter()
        self._first_token_at: float | None = None

    def takes(self, event: Event) -> bool:
        """Enter an event; False for what comes after the terminal one, which counts for nothing."""
        if self.end is not None:
            return False
        if isinstance(event, Token):
            self._completion_tokens += 1
            if self._first_token_at is None:
                self._first_token_at = time.perf_counter()
        else:
            self.end = event
        return True

    def log(self) -> None:
        """The one line that the generation leaves behind; called at its end, however it came."""
        first_token = self._first_token_at
        access_log.info(
            "generation request_id=%s prompt_tokens=%d completion_tokens=%d time_to_first_token_ms=%s finish_reason=%s",
            self._request_id,
            self._prompt_tokens,
            self._completion_tokens,
            "-" if first_token is None else f"{1e3 * (first_token - self._opened_at):.1f}",
            self._finish_reason(),
        )

    def _finish_reason(self) -> str:
        match self.end:
            case Finished():
                return self.end.finish_reason
            case Failed():
                return self.end.kind
            case None:
                return "abort"
