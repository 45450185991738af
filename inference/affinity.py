"""CPU affinity: the processors that the threads of a step stay on.

Between two steps the helper threads sleep. When they wake, the system may put two threads on the same processor and
leave the other one idle until its next look at the load, some milliseconds later; all wait for these two meanwhile. So
each thread of a step keeps a processor of its own, if there is one for each (`stay_on_own` in decoder.cpp).
"""

import os
import sys
import threading
from contextlib import suppress

USER_CHOOSES = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY")
"""OpenMP's own variables. With one of them, or with fewer threads than processors, the system places them."""


def processors_for(threads: int) -> list[int] | None:
    """The processor of each of so many threads, of which the calling one is the first.

    None where the system or the user places them, and on the main thread: what it starts would stay with it.
    """
    if sys.platform != "linux" or threading.current_thread() is threading.main_thread():
        return None
    if any(name in os.environ for name in USER_CHOOSES):
        return None
    processors = sorted(os.sched_getaffinity(os.getpid()))  # of the main thread
    return processors if len(processors) == threads else None


def leave_own_processor() -> None:
    """Let the calling thread, and with it what it starts, go wherever this process may."""
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox that refuses it has refused to keep the thread, too
            os.sched_setaffinity(0, os.sched_getaffinity(os.getpid()))
