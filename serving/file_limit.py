"""How many connections the process may have: each one is a file to the kernel, whose usual limit is low."""

import logging
from contextlib import suppress

log = logging.getLogger("engine")

SPARE = 256
"""Files that are not connections: libraries, the model's weights, logs."""


def raise_file_limit(connections: int) -> None:
    """Raise the soft limit of open files far enough for so many connections, or as far as the hard limit goes."""
    try:
        import resource
    except ImportError:  # not on Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = connections + SPARE
    if soft == unlimited or soft >= wanted:
        return
    allowed = wanted if hard == unlimited else min(wanted, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning(
            "Open files are limited to %d, which is not enough for ENGINE_MAX_CONNECTIONS=%d; raise the hard limit "
            "(LimitNOFILE= of systemd, ulimit -Hn) to %d",
            allowed,
            connections,
            wanted,
        )
