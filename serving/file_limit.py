"""The limit of open files, which is usually low: to the kernel each connection is one. It is raised, or refused."""

import logging
from contextlib import suppress

log = logging.getLogger("engine")

SPARE = 256
"""Files for anything but connections: libraries, the model's weights, logs."""
LEAST_CONNECTIONS = 16
"""The number of connections that is allowed in any case."""
LEAST_FILES = 40
"""Files for that many connections, and for an event loop and the model."""


def require_files() -> None:
    """Check that the process may open enough files to start at all.

    Raises:
        SystemExit: the hard limit is too low. Without this, it would be a traceback of whatever needs the next file.
    """
    with suppress(ImportError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if hard != resource.RLIM_INFINITY and hard < LEAST_FILES:
            raise SystemExit(
                f"error: expected a hard limit of at least {LEAST_FILES} open files, got {hard}; raise it "
                "(LimitNOFILE= of systemd, ulimit -Hn)"
            )


def raise_file_limit(connections: int) -> int:
    """Raise the soft limit of open files for this many connections, as far as the hard limit allows.

    Returns:
        How many connections to allow. A server that runs out of files can accept no new ones, and logs that thousands
        of times a second.
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
    return min(connections, max(LEAST_CONNECTIONS, allowed - SPARE))
