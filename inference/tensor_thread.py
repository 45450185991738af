"""The one thread that touches tensors, whichever thread steps the engine.

OpenMP keeps a team of helper threads for each thread that has ever computed. As soon as there are more helpers than
cores, they no longer spin between pieces of work: every helper sleeps and must be woken in each of the hundreds of
small parallel loops of a step. On two cores that made a step almost 50% slower. A hop to this thread and back costs
0.1 ms, so a server's steps are all made here for as long as there is work (`backends.own`).
"""

import atexit
import ctypes
import logging
import os
import platform
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

import torch

from inference import control_groups

log = logging.getLogger("engine")

Result = TypeVar("Result")

LARGE_BLOCK = 31 * 2**20
"""Bytes; just below the 32 MiB cap that glibc puts on its M_MMAP_THRESHOLD."""
M_TOP_PAD = -2
"""The number of the parameter in glibc's malloc.h."""
LARGEST_HEAP = 64 * 2**20
"""Bytes of a thread's heap in glibc: twice its cap on M_MMAP_THRESHOLD."""
LAST_WORK = 1.0
"""Seconds that the end of the process waits for the work that the thread has begun."""

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
            # A daemon, so that the process can exit during a download or a long step.
            _thread = threading.Thread(target=_run, args=(_most_threads(),), name="tensors", daemon=True)
            _thread.start()
    outcome: Future[Result] = Future()
    _work.put((outcome, function))
    return outcome.result()


@atexit.register
def _stop() -> None:
    """Have the thread wait for ever, so that it does nothing while the interpreter ends.

    The interpreter ends a daemon that wants its lock again by unwinding its stack, and torch's functions do not let
    themselves be unwound: the process would abort, after Ctrl-C during a step for example.
    """
    if _thread is None or not _thread.is_alive():
        return
    has_stopped = threading.Event()

    def wait_for_ever() -> None:
        has_stopped.set()
        threading.Event().wait()

    _work.put((Future(), wait_for_ever))
    has_stopped.wait(LAST_WORK)


def _run(most_threads: int | None) -> None:
    if most_threads is not None:
        torch.set_num_threads(most_threads)
    _keep_freed_memory()
    while True:
        outcome, function = _work.get()
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)
        del outcome, function  # and with them the last reference to a model that is gone


def _most_threads() -> int | None:
    """How many threads may compute, if that is fewer than torch would use and the user has not set their number.

    It is as many as a limit on processor time allows whole processors. With more, all of them use up the time of a
    period (0.1 s) in a part of it, and are then stopped for the rest, mostly while they wait for one another.

    The tensor thread does not ask by itself: small blocks that stay in its part of glibc's memory, such as texts that
    Python keeps, would lie between the large ones, and free memory would be given back to the system after all.
    """
    allowed = control_groups.processors()
    if allowed is None or "OMP_NUM_THREADS" in os.environ:
        return None
    count = max(1, int(allowed))
    if count >= torch.get_num_threads():
        return None
    log.info("Threads: %d, as processor time is limited to %g cores (OMP_NUM_THREADS chooses)", count, allowed)
    return count


def _keep_freed_memory() -> None:
    """Have glibc keep the memory that a layer frees for the next layer.

    glibc returns memory to the system as soon as more is free than twice the largest block that it ever mapped and
    freed. A layer frees ten megabytes if the step has a large chunk. Every layer would then map them again, and the
    system would zero them page by page.

    A thread's memory lies in heaps, and one that becomes empty is returned too, unless the heap before it has less room
    than the top pad (`heap_trim` in glibc's malloc/arena.c). So whether a layer's last tensor, for which the first heap
    had no room, was mapped again each time depended on how much else lay there.
    """
    with suppress(RuntimeError):  # there is no room for the block: what needs as much will say so
        torch.empty(LARGE_BLOCK, dtype=torch.uint8)
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_TOP_PAD, LARGEST_HEAP)  # from here on, glibc leaves its thresholds as they are
