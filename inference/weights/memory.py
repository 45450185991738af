"""How much memory is free, on a device or for this process."""

import os
from pathlib import Path

import torch


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device, or for this process; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [found for found in (_available(), _left_to_the_container()) if found is not None]
    return min(free, default=None)


def gibibytes(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


def _available() -> int | None:
    """What the kernel could give to a new process without swapping."""
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
    """What the container that this process runs in may still take (cgroup v2)."""
    folder = Path("/sys/fs/cgroup")
    try:
        return int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return None
