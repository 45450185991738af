"""Folders without which torch and transformers cannot be imported, or no process is started."""

import logging
import os
import tempfile

log = logging.getLogger("engine")

CACHE_OF_COMPILER = "TORCHINDUCTOR_CACHE_DIR"


def leave_removed_folder() -> None:
    """Go on in the root if the working directory has been removed, for example with an earlier version of the server.

    An engine or a worker that is started again would fail in it.
    """
    try:
        os.getcwd()
    except OSError:
        log.warning("The working directory has been removed: going on in %s", os.sep)
        os.chdir(os.sep)


def make_up_for_missing_folders() -> None:
    """Go on without a working directory, or a folder for temporary files. Call it before torch is imported."""
    leave_removed_folder()
    try:
        tempfile.gettempdir()
    except OSError:  # a file system that cannot be written to, as containers have
        # When it is imported, torch makes the folder of its compiler's cache; this one is there.
        os.environ.setdefault(CACHE_OF_COMPILER, os.sep)
