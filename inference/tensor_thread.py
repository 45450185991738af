"""The one thread that touches tensors, whichever thread steps the engine.

OpenMP keeps a team of helper threads for each thread that ever computed. As soon as there are more of them than
cores, no team waits actively for its next piece of work any more: every helper sleeps, and must be woken, in each of
the hundreds of small parallel loops of a step. On two cores that made a step nearly half as slow again; a hop to this
thread and back costs a ten-thousandth of a second.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")

_lock = threading.Lock()
_work: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
_thread: threading.Thread | None = None


def on_tensor_thread(function: Callable[[], Result]) -> Result:
    """Run `function` on the tensor thread; return what it returns, or raise what it raises."""
    global _thread
    if threading.current_thread() is _thread:
        return function()
    with _lock:
        if _thread is None or not _thread.is_alive():  # a fork leaves its threads behind
            # A daemon: at exit, nobody waits for a download or for a long step.
            _thread = threading.Thread(target=_run, name="tensors", daemon=True)
            _thread.start()
    outcome: Future[Result] = Future()
    _work.put((outcome, function))
    return outcome.result()


def _run() -> None:
    while True:
        outcome, function = _work.get()
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)
        del outcome, function  # and with them a model that nobody else holds any more
