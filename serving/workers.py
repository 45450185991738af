"""Several processes of one door over one engine: `python app.py --workers 4`.

This process starts the engine's process and uvicorn's supervisor of workers. The engine's process is started again when
it dies or hangs, and ends when this one does, however that ends; so do the workers.
"""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from multiprocessing import resource_tracker

import uvicorn
from uvicorn.supervisors import Multiprocess

from config import PREFIX, Config, ConfigError
from serving.engine_keeper import EngineKeeper
from serving.engine_process import REMOVE_FOLDER, UNTIL_STDIN_CLOSES

ENGINE = ("-m", "serving.engine_process")
"""The arguments of `python` that start the engine's process."""
WORKER_LIMIT = 60
"""Seconds without an answer to uvicorn's ping after which a worker is replaced. A worker that starts does not answer,
and its start takes long while the engine, which starts at the same time, uses all cores."""


class _Supervisor(Multiprocess):
    """uvicorn's supervisor of workers, which notices at once that one has died.

    Ctrl-C reaches all processes of a terminal. The workers begin with the signal blocked, and unblock it once they can
    answer it (`serving.process`), since in the middle of their imports it would be a traceback.
    """

    def run(self) -> None:
        resource_tracker.ensure_running()  # it unblocks the signal when it starts
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        super().run()

    def handle_signals(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # here it is heard if it has come
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        super().handle_signals()

    def keep_subprocess_alive(self) -> None:
        # This process also holds the workers' ends of their pipes. While those are open, a worker that dies between a
        # ping and its answer would be waited for until WORKER_LIMIT.
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
