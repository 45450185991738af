"""Priorities of threads: work that can wait gives way to the thread that the start waits for."""

import os
import sys
import threading

LEAST_URGENT = 19
"""The nice value with which a thread runs only while a processor is idle."""


def lower_priority(by: int) -> None:
    """Give this thread, and the programs that it starts, a nice value that is larger by this much."""
    if sys.platform == "linux":  # where a thread has a priority of its own
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(os.getpriority(os.PRIO_PROCESS, thread) + by, LEAST_URGENT))
