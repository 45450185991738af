"""The part that both drivers have in common: an engine, once it has been loaded, and its status."""

from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

from interface.engine import Counters, ModelInfo
from serving.status import EngineStatus


class _Described(Protocol):
    """The methods that a service and an engine that is stepped have in common."""

    @property
    def info(self) -> ModelInfo: ...

    def counters(self) -> Counters: ...


Engine = TypeVar("Engine", bound=_Described)


class EngineHolder(Generic[Engine]):
    """A driver's engine, and its status."""

    def __init__(self, status: EngineStatus) -> None:
        self._status = status
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
    def sampling_defaults(self) -> Mapping[str, float]:
        """The model's own defaults for sampling parameters; empty until the model is loaded."""
        return {} if self._engine is None else self._engine.info.sampling_defaults

    @property
    def _context(self) -> int:
        return 0 if self._engine is None else self._engine.info.context

    def counters(self) -> Counters:
        return Counters(0, 0, 0) if self._engine is None else self._engine.counters()

    def _available_engine(self) -> Engine:
        """Return the engine. Raises EngineUnavailable if it takes no requests."""
        if self._engine is None or self.status != "ok":
            raise self._status.unavailable()
        return self._engine
