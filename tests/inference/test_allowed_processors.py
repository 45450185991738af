"""A limit on processor time, as a container has it, limits the threads that compute."""

import queue
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from inference import control_groups, tensor_thread


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(control_groups, "CGROUPS", tmp_path)
    monkeypatch.setattr(control_groups, "OWN_GROUPS", tmp_path / "own")
    return tmp_path


@pytest.fixture
def new_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tensor thread begins once more, where torch would use eight threads."""
    before = torch.get_num_threads()
    monkeypatch.setattr(tensor_thread, "_thread", None)
    monkeypatch.setattr(tensor_thread, "_work", queue.SimpleQueue())
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


def limit(group: Path, **files: str) -> None:
    group.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (group / name.replace("__", ".")).write_text(f"{text}\n")


def threads() -> int:
    return tensor_thread.on_tensor_thread(torch.get_num_threads)


@pytest.mark.parametrize(
    ("quota", "expected"), [("300000", 3), ("250000", 2), ("50000", 1), ("6400000", 8), ("max", 8)]
)
def test_as_many_threads_compute_as_whole_processors_are_allowed(
    groups: Path, new_thread: None, quota: str, expected: int
) -> None:
    limit(groups, cpu__max=f"{quota} 100000")
    assert threads() == expected


def test_the_number_that_the_user_has_set_stays(
    groups: Path, new_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    limit(groups, cpu__max="100000 100000")
    assert threads() == 8


def test_the_tightest_limit_of_the_groups_above_holds(groups: Path) -> None:
    (groups / "own").write_text("0::/system.slice/engine.service\n")
    limit(groups / "system.slice", cpu__max="150000 100000")
    limit(groups / "system.slice" / "engine.service", cpu__max="400000 100000")
    assert control_groups.processors() == 1.5


def test_the_first_version_of_control_groups_limits_processors_too(groups: Path) -> None:
    (groups / "own").write_text("4:memory:/\n3:cpu,cpuacct:/docker/1\n2:cpuset:/\n")
    limit(groups / "cpu", cpu__cfs_quota_us="200000", cpu__cfs_period_us="100000")
    assert control_groups.processors() == 2
    limit(groups / "cpu", cpu__cfs_quota_us="-1")
    assert control_groups.processors() is None
