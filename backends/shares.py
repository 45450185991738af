"""What one worker has counted, and what it knows of the others' counts, across connections and engines."""

from collections.abc import Callable, Mapping

from interface.engine import Tally


class Shares:
    """Sees to it that every count is told once.

    The engine counts a connection that has ended among the departed. So a worker that connects with the same engine
    again tells only what is new since its last report.
    """

    def __init__(self) -> None:
        self.own: Callable[[], Tally] = Tally
        self.departed = Tally()
        self._others = Tally()
        self._told: Mapping[str, float] = {}
        self._settled: Mapping[str, float] = {}
        """What this worker told through connections that have ended: the engine has it, and counts it as another's."""
        self._engine = ""

    def connected(self, engine: str) -> None:
        if engine == self._engine:
            self._others += Tally(self._told).since(self._settled)
            self._settled = self._told
        self._engine = engine

    def report(self) -> Tally:
        """What to tell the engine now."""
        own = self.own()
        self._told = own.counts
        return own.since(self._settled)

    def heard(self, others: Tally, departed: Tally) -> None:
        self._others, self.departed = others, departed

    def others(self) -> Tally:
        """What the others have counted: with this worker's own tally, everything."""
        settled = {name: -amount for name, amount in self._settled.items()}
        return self._others + Tally(settled)
