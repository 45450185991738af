"""Servers that a benchmark has started end with it."""

import os
import subprocess
import sys

import pytest

from study.common.launcher import ROOT

PROGRAM = """
import time
from study.common.launcher import running
with running(["-c", "import time; time.sleep(100)"]) as process:
    print(process.popen.pid, flush=True)
    time.sleep(100)
"""


def test_a_program_that_is_told_to_end_ends_its_servers() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        server = int(program.stdout.readline())
        program.terminate()
        assert program.wait(60) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)
