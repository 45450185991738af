"""Each thread that computes a step keeps a processor of its own, so that no two of them ever share one."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from inference.affinity import USER_CHOOSES, processors_for

if sys.platform != "linux":
    pytest.skip("only there a thread can be kept on a processor", allow_module_level=True)

PROCESSORS = sorted(os.sched_getaffinity(0))
KEPT = """
import os
from pathlib import Path
import torch
from config import Config
from engine import Engine
from inference.cpp.build import set_cache_folder

set_cache_folder(Path({compiled!r}))
torch.set_num_threads({threads})
engine = Engine.load(Config(compile=True))
engine.generate("Hello", max_tokens=2)
masks = [os.sched_getaffinity(int(thread)) for thread in os.listdir("/proc/self/task")]
print(sorted(min(mask) for mask in masks if len(mask) == 1), len(os.sched_getaffinity(os.getpid())))
"""
FEWER_ROWS = """
import os
import torch
from inference.sampling.choose import NativeChooser
from inference.scheduling.sample_args import SampleArgs

choose = NativeChooser(threads=4)
found = []
for rows in (4, 2, 1, 3):
    choose(torch.zeros(rows, 100), [SampleArgs()] * rows)
    found.append(sorted(os.listdir("/proc/self/task")))
print(all(threads == found[0] for threads in found))
"""


def shown_by(program: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in USER_CHOOSES} | variables
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


needs_two = pytest.mark.skipif(len(PROCESSORS) < 2, reason="with one processor all threads are on it")


@needs_two
def test_each_thread_of_a_step_stays_on_a_processor_and_all_others_are_free(compiled_by_this_run: Path) -> None:
    kept = shown_by(KEPT.format(threads=len(PROCESSORS), compiled=str(compiled_by_this_run)))
    assert kept == f"{PROCESSORS} {len(PROCESSORS)}"


@needs_two
def test_with_fewer_threads_than_processors_none_is_kept(compiled_by_this_run: Path) -> None:
    kept = shown_by(KEPT.format(threads=len(PROCESSORS) - 1, compiled=str(compiled_by_this_run)))
    assert kept == f"[] {len(PROCESSORS)}"


@needs_two
def test_threads_are_left_alone_if_the_user_has_told_openmp_where_they_go(compiled_by_this_run: Path) -> None:
    program = KEPT.format(threads=len(PROCESSORS), compiled=str(compiled_by_this_run))
    kept = shown_by(program, OMP_PROC_BIND="false")
    assert kept == f"[] {len(PROCESSORS)}"


def test_the_main_thread_is_not_kept_since_programs_that_it_starts_would_be_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in USER_CHOOSES:
        monkeypatch.delenv(name, raising=False)
    assert processors_for(len(PROCESSORS)) is None
    with ThreadPoolExecutor(1) as another:
        assert another.submit(processors_for, len(PROCESSORS)).result() == PROCESSORS


def test_a_step_with_fewer_rows_than_threads_ends_none_of_them() -> None:
    assert shown_by(FEWER_ROWS) == "True"
