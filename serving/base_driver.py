"""The base of both drivers. What differs is how an engine's events reach their requests: with a loop or without."""

from collections.abc import Mapping
from functools import partial
from typing import Generic, Protocol, TypeVar

from backends.kept_in_memory import KeptInMemory
from config import Config
from interface.engine import Counters, ModelInfo, Tally
from interface.kept import Kept
from interface.vitals import Vitals
from serving.metrics import Metrics, State
from serving.status import EngineStatus


class _Described(Protocol):
    """The methods that a service and an engine that is stepped have in common."""

    @property
    def info(self) -> ModelInfo: ...

    def counters(self) -> Counters: ...


Engine = TypeVar("Engine", bound=_Described)


class BaseDriver(Generic[Engine]):
    """What both drivers have: an engine, once it has been loaded, its status, and its metrics."""

    def __init__(self, config: Config, status: EngineStatus) -> None:
        self.config = config
        self.metrics = Metrics()
        self._status = status
        self._kept: Kept = KeptInMemory()
        self._engine: Engine | None = None

    @property
    def status(self) -> str:
        """ "ok", or the reason why no requests are taken."""
        return self._status.text

    @property
    def models(self) -> tuple[str, ...]:
        """The names under which the model is served; the first one is the default."""
        return self._status.models

    @property
    def fingerprint(self) -> str:
        return self.config.fingerprint

    @property
    def sampling_defaults(self) -> Mapping[str, float]:
        """The model's own defaults for sampling parameters; empty until the model is loaded."""
        return {} if self._engine is None else self._engine.info.sampling_defaults

    def counters(self) -> Counters:
        return Counters(0, 0, 0) if self._engine is None else self._engine.counters()

    def _vitals(self, cache_tokens: int, others: Tally | None = None) -> Vitals:
        """The state of the driver. `others` are the counts of other processes over the same engine."""
        state = State(
            counters=self.counters(),
            is_ready=self.status == "ok",
            has_failed=self._status.has_failed,
            cache_tokens=cache_tokens,
            slots=self.config.max_streams,
            context=0 if self._engine is None else self._engine.info.context,
            model=self.models[0],
        )
        metrics = partial(self.metrics.text, state, others)
        return Vitals(self.status, state.has_failed, state.model, state.counters, self.config.transcript, metrics)

    def _available_engine(self) -> Engine:
        """Return the engine. Raises EngineUnavailable if it takes no requests."""
        if self._engine is None or self.status != "ok":
            raise self._status.unavailable()
        return self._engine
