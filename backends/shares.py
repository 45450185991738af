"""One worker's counts and those of the other workers, across reconnections to the engine."""

from collections.abc import Callable, Mapping

from interface.engine import Tally


class Shares:
    """Makes sure that every count is reported once.

    When a connection ends, the engine keeps the worker's counts among the departed. So a worker that reconnects to the
    same engine reports only what is new since its last report.
    """

    def __init__(self) -> None:
        self.own: Callable[[], Tally] = Tally
        self.departed = Tally()
        self._others = Tally()
        self._reported: Mapping[str, float] = {}
        self._settled: Mapping[str, float] = {}
        """The counts that this worker reported on earlier connections. The engine has them among the departed."""
        self._engine = ""

    def connected(self, engine: str) -> None:
        if engine == self._engine:
            self._others += Tally(self._reported).since(self._settled)
            self._settled = self._reported
        self._engine = engine

    def report(self) -> Tally:
        """Return what to report to the engine now."""
        own = self.own()
        self._reported = own.counts
        return own.since(self._settled)

    def update(self, others: Tally, departed: Tally) -> None:
        self._others, self.departed = others, departed

    def others(self) -> Tally:
        """Return the counts of all other workers; together with this worker's own, they are all counts."""
        settled = {name: -amount for name, amount in self._settled.items()}
        return self._others + Tally(settled)
