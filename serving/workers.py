"""Several processes of one door over one engine: `python app.py --workers 4`.

This process starts the engine's process and uvicorn's supervisor of workers. The engine's process is started again when
it dies, and ends when this one does, however that ends; so do the workers.
"""

import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path

import uvicorn
from uvicorn.supervisors import Multiprocess

from config import PREFIX, Config, ConfigError
from serving.engine_process import REMOVE_FOLDER, UNTIL_STDIN_CLOSES
from serving.shutdown import CANNOT_LOAD

log = logging.getLogger("engine")

ENGINE = ("-m", "serving.engine_process")
"""The arguments of `python` that start the engine's process."""
ROOT = Path(__file__).parent.parent
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the engine's process is started again. Each pause is twice the one before, unless it has lived for
longer than the longest."""
WORKER_LIMIT = 60
"""Seconds without a sign after which a worker is replaced. It gives none while it starts, which takes long when the
engine, which starts at the same time, has all the cores."""
END_SLACK = 3.0
"""Seconds beyond `drain` that the engine's process gets to end."""


class EngineKeeper:
    """Keeps the engine's process running. `on_hopeless` is called if no start can help, with the exit status."""

    def __init__(self, arguments: Sequence[str], drain: float, on_hopeless: Callable[[int], None]) -> None:
        self._command = [sys.executable, *arguments]
        self._end_limit = drain + END_SLACK
        self._on_hopeless = on_hopeless
        self._is_closing = threading.Event()
        self._lock = threading.Lock()
        """Held while a process is started: none may be after `close`."""

    def start(self) -> None:
        self._process = self._started()
        threading.Thread(target=self._keep, name="keep the engine", daemon=True).start()

    def close(self) -> None:
        """End the process, and wait until it has ended."""
        self._is_closing.set()
        with self._lock:
            process = self._process
        process.terminate()
        try:
            process.wait(self._end_limit)
        except subprocess.TimeoutExpired:
            log.warning("The engine's process does not end; it is killed")
            process.kill()
        _wait(process)

    def _started(self) -> "subprocess.Popen[bytes]":
        # Its stdin stays open for as long as this process lives. In a group of its own, it hears no Ctrl-C: the
        # workers end first.
        paths = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
        environ = os.environ | {"PYTHONPATH": paths.rstrip(os.pathsep)}
        return subprocess.Popen(self._command, env=environ, stdin=subprocess.PIPE, process_group=0)

    def _keep(self) -> None:
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            status = _wait(self._process)
            if self._is_closing.is_set():
                return
            if status == CANNOT_LOAD:
                self._on_hopeless(status)
                return
            if time.monotonic() - began > LONGEST_PAUSE:
                pause = FIRST_PAUSE
            log.error("The engine's process has ended with status %d; the next starts in %g s", status, pause)
            self._is_closing.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            with self._lock:
                if self._is_closing.is_set():
                    return
                self._process = self._started()


def _wait(process: "subprocess.Popen[bytes]") -> int:
    """Wait for a process to end; return its status."""
    assert process.stdin is not None
    status = process.wait()
    process.stdin.close()
    return status


class _Supervisor(Multiprocess):
    """uvicorn's supervisor of workers, which notices at once that one has died."""

    def keep_subprocess_alive(self) -> None:
        # This process has the workers' ends of their pipes too. As long as they are open, a worker that dies between a
        # ping and its answer is waited for until WORKER_LIMIT.
        for process in self.processes:
            process.child_conn.close()
        super().keep_subprocess_alive()


def serve(server: uvicorn.Config, config: Config, engine: Sequence[str] = ENGINE) -> int:
    """Serve `server.app`, an import string, with `server.workers` processes; return the exit status.

    `engine` are the arguments of `python` that start the engine's process.
    """
    if config.transcript:
        raise ConfigError("--transcript needs a single process: the one that answers a request keeps its messages")
    server.timeout_worker_healthcheck = WORKER_LIMIT
    listener = server.bind_socket()
    supervisor = _Supervisor(server, [listener])
    statuses: list[int] = []

    def give_up(status: int) -> None:
        statuses.append(status)
        supervisor.should_exit.set()

    with engine_running(config, give_up, engine):
        supervisor.run()
    listener.close()
    return statuses[0] if statuses else 0


@contextmanager
def engine_running(
    config: Config, on_hopeless: Callable[[int], None], engine: Sequence[str] = ENGINE
) -> Iterator[None]:
    """Keep the engine's process running within this. Processes that are started meanwhile find it in the environment.

    See `EngineKeeper` for `on_hopeless`.
    """
    with _socket_of(config) as (config, engine_options):
        _set_environment(config)
        keeper = EngineKeeper([*engine, UNTIL_STDIN_CLOSES, *engine_options], config.drain, on_hopeless)
        keeper.start()
        try:
            yield
        finally:
            keeper.close()


@contextmanager
def _socket_of(config: Config) -> Iterator[tuple[Config, list[str]]]:
    """The settings with a socket: the one that they name, or one in a folder that is removed at the end."""
    if config.socket is not None:
        yield config, []
        return
    folder = tempfile.mkdtemp(prefix="engine-")  # only this user may enter it
    try:
        yield replace(config, socket=os.path.join(folder, "engine.sock")), [REMOVE_FOLDER]
    finally:
        with suppress(OSError):
            os.rmdir(folder)


def _set_environment(config: Config) -> None:
    """Pass the settings on to the processes that are started from here, those from flags too."""
    for setting in fields(Config):
        os.environ.pop(PREFIX + setting.name.upper(), None)
    os.environ.update(config.to_environment())
