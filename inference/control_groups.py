"""The control groups of this process: Linux' limits, as containers and systemd units have them, of version 1 and 2.

Each group limits those below it. A container may see only a part of them.
"""

from collections.abc import Iterator
from pathlib import Path

CGROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""The folder of the groups, and the file that lists those of this process."""


def folders(controller: str) -> Iterator[Path]:
    """The folders of the groups in which a controller ("memory", "cpu") may limit this process."""
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        lines = []
    for line in ("0::/", *lines):
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            own = CGROUPS / (controller if controllers else "") / path.strip("/")
            yield from (own, *(folder for folder in own.parents if folder.is_relative_to(CGROUPS)))


def processors() -> float | None:
    """How many processors' time this process may use; None without a limit."""
    return min((limit for folder in folders("cpu") if (limit := _processors_of(folder)) is not None), default=None)


def _processors_of(group: Path) -> float | None:
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = (int(number) for name in names for number in (group / name).read_text().split())
        except (OSError, ValueError):  # another version's, or there is no limit
            continue
        if quota > 0:
            return quota / period
    return None
