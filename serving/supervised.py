"""Finds out whether the server around an application runs several processes that would share nothing."""

import inspect
import multiprocessing
import sys
from typing import Any

from config import STARTUP_FAILURE

ADVICE = (
    "error: {count} workers would load {count} models; run `python app.py --workers {count}`, "
    "or start the engine with `python -m serving.engine_process` and set ENGINE_SOCKET for both"
)
APART = (
    "warning: each of {count} workers keeps responses and conversations of its own, which the others do not find, "
    "and counts only its own requests in /metrics; `python app.py --workers {count}` shares them"
)
SERVERS = ("uvicorn", "uvicorn_worker", "gunicorn", "hypercorn", "granian")
"""The packages of servers whose settings are looked at."""


def check_workers(*, loads_a_model: bool) -> None:
    """Advise against several processes of this server; if each would load a model, end this one, and with it all."""
    if (count := count_workers()) > 1:
        print((ADVICE if loads_a_model else APART).format(count=count), file=sys.stderr)
        if loads_a_model:
            raise SystemExit(STARTUP_FAILURE)


def is_worker() -> bool:
    """Whether another process of this server started this one, and would start it again."""
    return multiprocessing.parent_process() is not None or "gunicorn" in sys.modules


def count_workers() -> int:
    """Return how many processes the server around the present call runs, as far as its settings say.

    A server tells its application nothing of them. But while it imports the application it is among the callers, with
    its settings: uvicorn's `Server.config.workers`, gunicorn's `Arbiter.cfg.workers` and `Worker.cfg.workers`, the
    `config.workers` that hypercorn's workers are called with, and the `workers` of granian's server, from whose process
    its workers are forked. (Where granian's workers are spawned, as with Python 3.14, nothing tells them.)
    """
    frame = inspect.currentframe()
    workers = 1
    while frame is not None:
        for name in ("self", "config"):
            workers = max(workers, _workers_of(frame.f_locals.get(name)))
        frame = frame.f_back
    return workers


def _workers_of(caller: Any) -> int:
    """How many processes a server runs; 1 if `caller` is no part of a server."""
    if type(caller).__module__.partition(".")[0] not in SERVERS:
        return 1
    settings = getattr(caller, "cfg", None) or getattr(caller, "config", None) or caller
    count = getattr(settings, "workers", 1)
    return count if isinstance(count, int) else 1
