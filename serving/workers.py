"""Several processes of one door over one engine: `python app.py --workers 4`.

This process starts the engine's process and uvicorn's supervisor of workers. The engine's process is started again when
it dies or hangs, and ends when this one does, however that ends; so do the workers.
"""

import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from multiprocessing import resource_tracker

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from backends.missing_folders import leave_removed_folder
from config import PREFIX, Config, ConfigError
from serving.engine_keeper import EngineKeeper
from serving.engine_process import REMOVE_FOLDER, UNTIL_STDIN_CLOSES
from serving.process import SIGNALS

ENGINE = ("-m", "serving.engine_process")
"""The arguments of `python` that start the engine's process."""
WORKER_LIMIT = 60
"""Seconds without an answer to uvicorn's ping after which a worker is replaced. A worker that starts does not answer,
and its start takes long while the engine, which starts at the same time, uses all cores."""
SENT_TO_ALL = (signal.SIGINT, signal.SIGHUP)
"""The signals that a terminal sends to each process that was started from it."""


class _Supervisor(Multiprocess):
    """uvicorn's supervisor of workers, which notices at once that one has died, and ends by the signal that ends it.

    A terminal sends Ctrl-C to all of its processes, and SIGHUP when it is closed. The workers begin with both blocked.
    They unblock the first once they can answer it (`serving.process`), since in the middle of their imports it would be
    a traceback, and never hear the second, at which uvicorn's supervisor replaces them. Here it counts as SIGTERM if
    the terminal has been closed, unless `nohup` has chosen otherwise.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        self._of_caller = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGHUP)}
        self._ended_by: int | None = None
        self._had_terminal = _has_terminal()
        self._starting_until: dict[int | None, float] = {}
        super().__init__(config, sockets)

    def run(self) -> None:
        leave_removed_folder()
        signal.pthread_sigmask(signal.SIG_BLOCK, SENT_TO_ALL)
        resource_tracker.ensure_running()  # it unblocks Ctrl-C when it starts
        signal.pthread_sigmask(signal.SIG_BLOCK, SENT_TO_ALL)
        super().run()

    def handle_signals(self) -> None:
        leave_removed_folder()  # no worker could be started there
        has_terminal = _has_terminal()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SENT_TO_ALL)  # here they are heard if they have come
        signal.pthread_sigmask(signal.SIG_BLOCK, SENT_TO_ALL)
        super().handle_signals()
        self._had_terminal = has_terminal

    def handle_int(self) -> None:
        self._ended_by = signal.SIGINT
        super().handle_int()

    def handle_term(self) -> None:
        self._ended_by = signal.SIGTERM
        super().handle_term()

    def handle_hup(self) -> None:
        is_closed = self._had_terminal and not _has_terminal()
        if not is_closed:
            super().handle_hup()
        elif self._of_caller[signal.SIGHUP] != signal.SIG_IGN:
            self.handle_term()

    def end_by_signal(self) -> int:
        """End this process by the signal that it was told to end by, as uvicorn does with a single one.

        Returns:
            The exit status if that signal is ignored, or if there was none: then a worker could not start.
        """
        for number, handler in self._of_caller.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SENT_TO_ALL)
        if self._ended_by is None:
            return STARTUP_FAILURE
        signal.raise_signal(self._ended_by)
        return 0

    def keep_subprocess_alive(self) -> None:
        # This process also holds the workers' ends of their pipes. While those are open, a worker that dies between a
        # ping and its answer would be waited for until WORKER_LIMIT.
        for process in self.processes:
            process.child_conn.close()
        if not any(map(self._is_starting, self.processes)):
            super().keep_subprocess_alive()

    def _is_starting(self, process: Process) -> bool:
        """Whether a worker has not answered yet, and may still. Waiting for its answer would be waiting for its start,
        during which no signal is looked at."""
        until = self._starting_until.setdefault(process.pid, time.monotonic() + WORKER_LIMIT)
        if time.monotonic() < until and process.process.is_alive() and not process.ping(timeout=0):
            return True
        self._starting_until[process.pid] = 0.0
        return False


def serve(server: uvicorn.Config, config: Config, engine: Sequence[str] = ENGINE) -> int:
    """Serve `server.app`, an import string, with `server.workers` processes until a signal, and end by it.

    Returns the exit status if something else has ended it, such as an engine that cannot be loaded.

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
    return statuses[0] if statuses else supervisor.end_by_signal()


def _has_terminal() -> bool:
    """Whether there is a terminal that this process was started from, which has not been closed."""
    try:
        os.close(os.open(os.ctermid(), os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


@contextmanager
def engine_running(
    config: Config, on_hopeless: Callable[[int], None], engine: Sequence[str] = ENGINE
) -> Iterator[None]:
    """Within this, keep the engine's process running, with the environment set so that workers find it.

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
    """Yield the settings, with a socket in a temporary folder unless they name one, and options for the engine."""
    if config.socket is not None:
        yield config, []
        return
    try:
        folder = tempfile.mkdtemp(prefix="engine-")  # only this user may enter it
    except OSError as error:
        raise ConfigError(f"expected a folder for temporary files, or a --socket: {error.strerror or error}") from None
    try:
        yield replace(config, socket=os.path.join(folder, "engine.sock")), [REMOVE_FOLDER]
    finally:
        with suppress(OSError):
            os.rmdir(folder)


def _set_environment(config: Config) -> None:
    """Pass the settings, including those from flags, on to the processes that are started from here."""
    for setting in fields(Config):
        os.environ.pop(PREFIX + setting.name.upper(), None)
    os.environ.update(config.to_environment())
