"""How many connections the process may have: each one is a file to the kernel, whose usual limit is low."""

import logging
from contextlib import suppress

log = logging.getLogger("engine")

SPARE = 256
"""Files that are not connections: libraries, the model's weights, logs, and what is accepted before it is closed."""
LEAST = 16
"""Connections that there is room for in any case."""


def raise_file_limit(connections: int) -> int:
    """Raise the soft limit of open files far enough for so many connections, or as far as the hard limit goes.

    Returns:
        How many connections there is room for: a server that runs out of files hears of no new ones, and says so
        thousands of times a second.
    """
    try:
        import resource
    except ImportError:  # not on Windows, which has no such limit
        return connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = connections + SPARE
    if soft == unlimited or soft >= wanted:
        return connections
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
    return min(connections, max(LEAST, allowed - SPARE))
