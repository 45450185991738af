"""How much memory is free, on a device or for this process."""

import os
from pathlib import Path

import torch

from inference import control_groups

STATM = Path("/proc/self/statm")
"""The sizes of this process in pages; the first is that of all it has mapped."""


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device, or for this process; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = (_available(), _left_to_the_container(), left_to_the_process())
    return min((free for free in found if free is not None), default=None)


def left_to_the_process() -> int | None:
    """Bytes of addresses that this process may still map (`ulimit -v`); None if it has no limit."""
    try:
        import resource
    except ImportError:  # not on Windows, which has no such limit
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        mapped = int(STATM.read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return None
    return max(0, limit - mapped)


def gibibytes(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


def _available() -> int | None:
    """Bytes that the kernel could give to a new process without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return _half_of_the_machine()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _half_of_the_machine() -> int | None:
    """For systems without /proc."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return None


def _left_to_the_container() -> int | None:
    """Bytes that this process' control groups may still take."""
    lefts = [left for folder in control_groups.folders("memory") if (left := _left_in(folder)) is not None]
    return min(lefts, default=None)


def _left_in(group: Path) -> int | None:
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        try:
            return int((group / limit).read_text()) - int((group / used).read_text()) + _of_files(group)
        except (OSError, ValueError):  # another version's, or there is no limit
            continue
    return None


def _of_files(group: Path) -> int:
    """Bytes of cached files in a group's usage, which the system takes back when memory is needed."""
    try:
        lines = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    numbers = dict(line.split(" ", 1) for line in lines if " " in line)
    prefix = "total_" if "total_inactive_file" in numbers else ""  # v1: of the groups below as well
    return sum(int(numbers.get(f"{prefix}{name}", 0)) for name in ("active_file", "inactive_file"))
