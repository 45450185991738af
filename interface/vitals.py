"""The state of a server, for `/health`, `/live` and `/metrics`."""

from collections.abc import Callable
from dataclasses import dataclass

from interface.engine import Counters


@dataclass(frozen=True, slots=True)
class Vitals:
    """The state of a driver at one moment."""

    status: str
    """ "ok", or the reason why no requests are taken."""
    has_failed: bool
    """Whether only a restart can help."""
    model: str
    counters: Counters
    transcript: bool
    """Whether the messages of each request can be read, at `/transcript/{request_id}`."""
    metrics: Callable[[], bytes]
    """Makes the text that Prometheus reads."""
