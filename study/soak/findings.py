"""The findings of a soak, the conditions that they must meet, and a page with both."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from study.common.client import percentile
from study.soak.clients import Tally

FLAT, FLAT_FROM = 0.02, 300.0
"""The growth of memory that is allowed in the second half of a soak, and the seconds from which on it is checked."""


@dataclass
class Findings:
    """One server's soak."""

    name: str
    seconds: float
    tally: Tally
    memory: Sequence[int]
    """The server's memory in bytes, at intervals."""
    health: Sequence[float]
    """Seconds that each question to /health took."""
    idle: Sequence[float]
    """Seconds that an idle server on the same machine took to answer at the same time."""
    made: int | None
    """Tokens; None if the server does not report them."""
    left: dict[str, int] = field(default_factory=dict)
    """How many more there were after the soak than before: sequences, files, tasks."""
    raised: int = 0
    """Steps that raised on purpose."""

    @property
    def growth(self) -> float:
        """Growth of the memory in the second half: the mean of the last quarter over that of the quarter before."""
        quarter = max(1, len(self.memory) // 4)
        last, before = self.memory[-quarter:], self.memory[-2 * quarter : -quarter] or self.memory
        return sum(last) / len(last) / (sum(before) / len(before)) - 1

    @property
    def wasted(self) -> int | None:
        """Tokens that were made, but reached no client."""
        return None if self.made is None else max(0, self.made - self.tally.tokens)

    def held(self, health_limit: float) -> dict[str, bool]:
        """The conditions, and whether each is met. `health_limit` is in seconds."""
        return {
            "a step has raised": self.raised > 0,
            **{f"nothing left: {what}": count <= 0 for what, count in self.left.items()},
            "every accepted request has exactly one terminal event": not self.tally.unended,
            "every 429 and 503 has Retry-After": self.tally.without_retry_after == 0,
            f"p99 of /health under {1e3 * health_limit:.0f} ms": percentile(self.health, 99) < health_limit,
            f"memory of the second half flat within 2% (from {FLAT_FROM / 60:.0f} minutes on)": (
                self.seconds < FLAT_FROM or abs(self.growth) < FLAT
            ),
        }

    def rows(self) -> dict[str, str]:
        """The figures, each with its name."""
        statuses = sorted(self.tally.statuses.items())
        return {
            "answers": f"{sum(self.tally.statuses.values())} in {self.seconds:.0f} s",
            "by status": ", ".join(f"{status}: {count}" for status, count in statuses),
            "accepted, but without exactly one end": str(len(self.tally.unended)),
            "refused without Retry-After": str(self.tally.without_retry_after),
            "/health, p50 and p99": _times(self.health),
            "an idle server meanwhile": _times(self.idle),
            "memory at the end": f"{self.memory[-1] / 2**20:.0f} MiB, second half {100 * self.growth:+.2f}%",
            "more than before": ", ".join(f"{what}: {count}" for what, count in self.left.items()),
            "tokens made": "not told" if self.made is None else str(self.made),
            "of them wasted": "not told"
            if self.wasted is None or self.made is None
            else _share(self.wasted, self.made),
        }


def report(found: Findings, health_limit: float) -> str:
    """Write one page: the figures, the conditions, and the first requests that did not end."""
    figures = [f"{name:38}  {value}" for name, value in found.rows().items()]
    held = [f"{'held  ' if good else 'BROKEN'}  {what}" for what, good in found.held(health_limit).items()]
    return "\n".join([f"# Soak of {found.name}", *figures, *held, *found.tally.unended[:10]])


def table(all_found: Sequence[Findings]) -> str:
    """Several servers side by side, in Markdown."""
    names = [found.name for found in all_found]
    rows = [[name, *(found.rows()[name] for found in all_found)] for name in all_found[0].rows()]
    lines = [["", *names], ["---"] * (len(names) + 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _times(seconds: Sequence[float]) -> str:
    return f"{1e3 * percentile(seconds, 50):.1f} and {1e3 * percentile(seconds, 99):.1f} ms"


def _share(part: int, whole: int) -> str:
    return f"{part} ({100 * part / max(1, whole):.1f}%)"
