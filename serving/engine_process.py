"""The engine in a process of its own, for workers in other processes, which find it at `ENGINE_SOCKET`.

    ENGINE_SOCKET=/run/engine.sock python -m serving.engine_process
    ENGINE_SOCKET=/run/engine.sock uvicorn app:app --workers 4

Its settings are those of the doors, and must be the same. `python app.py --workers 4` starts both.
"""

if __name__ == "__main__":
    import serving.quiet_start  # noqa: F401  no traceback at Ctrl-C during the imports below

import argparse
import asyncio
import logging
import os
import select
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from backends.host import EngineHost
from backends.load import load_engine_service
from backends.threads import load_in_daemon_thread
from config import Config
from interface.engine import EngineService
from interface.errors import LoadError, NoThreadToStart
from serving.flags import add_settings, chosen_config, parsed
from serving.logs import set_up_logging
from serving.process import CANNOT_LOAD, FAILED
from serving.sign_of_life import send_signs_of_life

log = logging.getLogger("engine")

BACKLOG = 128
UNTIL_STDIN_CLOSES, REMOVE_FOLDER, SIGNS_TO = "--until-stdin-closes", "--remove-folder", "--signs-of-life-to"


class UnusablePath(RuntimeError):
    """A socket cannot be made at this path."""


def main(load: Callable[[Config], EngineService] = load_engine_service, arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m serving.engine_process",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(UNTIL_STDIN_CLOSES, action="store_true", help="end when the program does that started this one")
    parser.add_argument(REMOVE_FOLDER, action="store_true", help="then remove the socket's folder, too")
    parser.add_argument(SIGNS_TO, type=int, metavar="FD", help="write a byte there each second, once it is loaded")
    add_settings(parser)
    options = parsed(parser, arguments)
    config = chosen_config(options)
    if config.socket is None:
        parser.error("expected ENGINE_SOCKET or --socket: the path where workers find the engine")
    set_up_logging(config.log_format)
    try:
        with listening(config.socket) as listener:
            status = asyncio.run(serve(config, load, listener, options.until_stdin_closes, options.signs_of_life_to))
    except UnusablePath as error:
        parser.exit(CANNOT_LOAD, f"error: {error}\n")
    if options.remove_folder and _stdin_has_closed():  # otherwise another engine's socket will be there
        with suppress(OSError):
            os.rmdir(os.path.dirname(config.socket))
    logging.shutdown()
    os._exit(status)  # a load that has been given up may still hold a thread


@contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """Listen at a path, for this user only. A socket that an earlier engine has left there is removed.

    Raises:
        UnusablePath: an engine listens there, or the path is another file's.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            _make_room(path)
            _bind_for_this_user(listener, path)
            made = os.stat(path)
        except OSError as error:
            raise UnusablePath(f"expected a path for a socket, got {path}: {error.strerror or error}") from None
        listener.listen(BACKLOG)
        try:
            yield listener
        finally:
            with suppress(FileNotFoundError):
                if os.path.samestat(made, os.stat(path)):
                    os.unlink(path)


def _make_room(path: str) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise UnusablePath(f"expected a path for a socket, got {path}, where a file is")
        with socket.socket(socket.AF_UNIX) as asking:
            asking.setblocking(False)
            with suppress(ConnectionRefusedError):  # left by a process that has ended
                asking.connect(path)
                raise UnusablePath(f"an engine listens at {path} already; end it first, or name another path")
        os.unlink(path)


def _bind_for_this_user(listener: socket.socket, path: str) -> None:
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(mask)


async def serve(
    config: Config,
    load: Callable[[Config], EngineService],
    listener: socket.socket,
    until_stdin_closes: bool,
    signs_of_life_to: int | None = None,
) -> int:
    """Load the engine, and serve it until the process is told to end; return the exit status."""
    loop = asyncio.get_running_loop()
    told_to_end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_end.set)
    if until_stdin_closes:
        try:
            threading.Thread(target=_wait_for_stdin, args=(loop, told_to_end), daemon=True).start()
        except RuntimeError as error:
            log.error("%s", NoThreadToStart("wait for the end of stdin on", error))
            return CANNOT_LOAD
    host = EngineHost(config)
    server = await loop.create_unix_server(host.connect, sock=listener)
    starting = asyncio.create_task(_load_and_start(host, config, load))
    ending = asyncio.create_task(told_to_end.wait())
    await asyncio.wait((starting, ending), return_when=asyncio.FIRST_COMPLETED)
    if starting.done() and (status := starting.result()):
        return status
    running: list[asyncio.Task[Any]] = [ending, asyncio.create_task(host.has_failed.wait())]
    if signs_of_life_to is not None:
        running.append(asyncio.create_task(send_signs_of_life(signs_of_life_to)))  # until the loop ends
    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    server.close()
    await host.close(host.failure or "it is shutting down", 0 if host.failure else config.drain)
    return FAILED if host.failure else 0


async def _load_and_start(host: EngineHost, config: Config, load: Callable[[Config], EngineService]) -> int:
    """Return 0, or the exit status if there will be no engine."""
    log.info("Loading %s …", config.model)
    began = time.perf_counter()
    try:
        await host.start(await load_in_daemon_thread(lambda: load(config)))
    except LoadError as error:
        log.error("The model could not be loaded: %s", error)
        return CANNOT_LOAD
    except Exception:
        log.exception("The model could not be loaded")
        return FAILED
    log.info("%s is ready after %.1f s, at %s", config.model, time.perf_counter() - began, config.socket)
    return 0


def _stdin_has_closed() -> bool:
    """Whether the program that started this one has ended: it writes nothing there."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def _wait_for_stdin(loop: asyncio.AbstractEventLoop, told_to_end: asyncio.Event) -> None:
    sys.stdin.buffer.read()
    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(told_to_end.set)


if __name__ == "__main__":
    main()
