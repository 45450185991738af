"""The stopwatch for busy machines counts what sleeps in full, and what waits for a processor not at all."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.idle_time import IdleTime, seconds_until_end

ON_ONE_PROCESSOR = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
FOR_EVER = ON_ONE_PROCESSOR + "print(flush=True)\nwhile True: pass"
FOR_A_WHILE = ON_ONE_PROCESSOR + "import time\nwhile time.process_time() < 0.2: pass"


def test_sleeping_counts_in_full() -> None:
    stopwatch = IdleTime()
    time.sleep(0.5)  # ten times as long: other threads of this process may wait for a processor meanwhile
    assert stopwatch.seconds >= 0.05


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="only Linux counts it")
def test_waiting_for_a_processor_does_not_count() -> None:
    with subprocess.Popen([sys.executable, "-c", FOR_EVER], stdout=subprocess.PIPE) as rival:
        assert rival.stdout is not None
        rival.stdout.readline()
        began = time.monotonic()
        with subprocess.Popen([sys.executable, "-c", FOR_A_WHILE]) as busy:
            watched: Any = SimpleNamespace(popen=busy)
            took = seconds_until_end(watched)
        rival.kill()
    assert took < 0.8 * (time.monotonic() - began)
