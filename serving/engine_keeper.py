"""Keeps the engine's process running: it is started again when it has died, and killed when it hangs."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from serving.engine_process import SIGNS_TO
from serving.process import CANNOT_LOAD
from serving.sign_of_life import SignsOfLife

log = logging.getLogger("engine")

ROOT = Path(__file__).parent.parent
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the engine's process is started again. Each pause is twice the one before, up to the longest. After a
process that has lived for longer than that, it is the first again."""
SILENCE_LIMIT = 120.0
"""Seconds without a sign of life after which a loaded engine's process is killed. Its event loop sends one each second,
also during a step. Its workers have ended their requests by then (`backends.socket_service.SILENCE`)."""
END_SLACK = 3.0
"""Seconds beyond `drain` that the engine's process gets to end."""


class EngineKeeper:
    """Keeps the engine's process running. `on_hopeless` is called with the exit status if no other start can help."""

    def __init__(self, arguments: Sequence[str], drain: float, on_hopeless: Callable[[int], None]) -> None:
        self._command = [sys.executable, *arguments]
        self._end_limit = drain + END_SLACK
        self._on_hopeless = on_hopeless
        self._is_closing = threading.Event()
        self._lock = threading.Lock()
        """Held while a process is started, so that none is started after `close`."""

    def start(self) -> None:
        self._process = _Process(self._command)
        threading.Thread(target=self._keep, name="keep the engine", daemon=True).start()

    def close(self) -> None:
        """End the process, and wait until it has ended."""
        self._is_closing.set()
        with self._lock:
            process = self._process
        process.end(self._end_limit)

    def _keep(self) -> None:
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            how, status = self._process.watch()
            if self._is_closing.is_set():
                return
            if status == CANNOT_LOAD:
                self._on_hopeless(status)
                return
            if time.monotonic() - began > LONGEST_PAUSE:
                pause = FIRST_PAUSE
            log.error("The engine's process %s; the next starts in %g s", how, pause)
            while not self._is_closing.wait(pause) and not self._has_started_another():
                pause = min(2 * pause, LONGEST_PAUSE)
            if self._is_closing.is_set():
                return
            pause = min(2 * pause, LONGEST_PAUSE)

    def _has_started_another(self) -> bool:
        """Start another process, unless this is closing. The system may have no room for one, just after the last."""
        with self._lock:
            if self._is_closing.is_set():
                return False
            try:
                self._process = _Process(self._command)
            except OSError as error:
                log.error("The engine's process cannot be started now, and is tried again: %s", error)
                return False
        return True


class _Process:
    """One process of the engine, from its start to its end."""

    def __init__(self, command: Sequence[str]) -> None:
        self._signs = SignsOfLife()
        writer = self._signs.writer
        paths = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
        # Its stdin stays open for as long as this process lives. In a group of its own, it hears no Ctrl-C: the
        # workers end first.
        try:
            self._popen = subprocess.Popen(
                [*command, SIGNS_TO, str(writer)],
                env=os.environ | {"PYTHONPATH": paths.rstrip(os.pathsep)},
                stdin=subprocess.PIPE,
                pass_fds=[writer],
                process_group=0,
            )
        except OSError:
            self._signs.close()
            raise
        finally:
            os.close(writer)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def has_ended(self) -> bool:
        return self._popen.poll() is not None

    def watch(self) -> tuple[str, int]:
        """Wait for the process to end, and kill it if it hangs. Call once.

        Returns:
            How it ended, for the log, and its exit status.
        """
        killed = False
        while not killed and self._signs.listen() and not self.has_ended:
            if self._signs.silence >= SILENCE_LIMIT:
                self._kill()
                killed = True
        status = self._wait()
        self._signs.close()
        if killed:
            return f"has shown no sign of life for {SILENCE_LIMIT:g} s and is killed", status
        return _ended(status), status

    def end(self, limit: float) -> None:
        """Terminate the process, and kill it if it has not ended after `limit` seconds."""
        self._popen.terminate()
        try:
            self._popen.wait(limit)
        except subprocess.TimeoutExpired:
            log.warning("The engine's process does not end; it is killed")
            self._kill()
        self._wait()

    def _kill(self) -> None:
        """Kill the process and those that it has started, vLLM's engine for example."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _wait(self) -> int:
        assert self._popen.stdin is not None
        status = self._popen.wait()
        self._popen.stdin.close()
        return status


def _ended(status: int) -> str:
    """Say how a process ended. When memory runs out, the system kills one, and nothing else in the log says so."""
    if status >= 0:
        return f"has ended with status {status}"
    why = ", as when memory has run out" if status == -signal.SIGKILL else ""
    return f"has been ended by signal {-status}{why}"
