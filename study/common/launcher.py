"""Servers as processes: starts them on a free port, waits for them, measures them and ends them.

with launched(uvicorn("raw_asgi:app"), {"ENGINE_COMPILE": "1"}) as server:
    server.wait_until_ready()
    asyncio.run(load(server.target, prompts, 64))
"""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from study.common.client import Target, ask_health

ROOT = Path(__file__).parents[2]
START_LIMIT = 600.0
"""Seconds that a server may take to become ready; compiling takes most of it."""
LISTEN_LIMIT = 60.0
"""Seconds that a program may take to print an expected line."""
HEALTH_LIMIT = 10.0
"""Seconds that one request to /health may take."""
END_LIMIT = 30.0
"""Seconds that a server may take to end; it is killed after them."""

LISTENING = r"(?:running on|Serving on|Listening at:) http://127\.0\.0\.1:(\d+)"
"""Matches what uvicorn, raw_wsgi.py and gunicorn print when they listen."""

Command = Callable[[int], Sequence[str]]
"""The arguments of `python` that start a server on a port."""


class ServerFailed(RuntimeError):
    """A server did not start; the message has its log."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def uvicorn(app: str, *options: str) -> Command:
    """`uvicorn` with an application, and options of its own."""
    return lambda port: ["-m", "uvicorn", app, "--port", str(port), "--no-access-log", *options]


@dataclass
class Process:
    """A program that has been started, and its output so far."""

    popen: subprocess.Popen[bytes]
    log_file: Path
    began: float
    given_port: int | None = None

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def port(self) -> int:
        """The port that the server was given, or else the one that it prints."""
        return self.given_port or int(self.find(LISTENING))

    def accepts_connections(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def target(self) -> Target:
        return Target.on_port(self.port)

    def wait(self) -> int:
        """The status with which it ends. It may have to start first, to find out that it cannot."""
        return self.popen.wait(LISTEN_LIMIT)

    def terminate(self) -> None:
        """Tell the process to end, as a supervisor does."""
        self.popen.terminate()

    def interrupt(self) -> None:
        """Do what Ctrl-C does to a single process."""
        self.popen.send_signal(signal.SIGINT)

    def interrupt_all(self) -> None:
        """Do what Ctrl-C in a terminal does: signal the processes that it has started as well."""
        os.killpg(self.popen.pid, signal.SIGINT)

    def find(self, pattern: str) -> str:
        """Wait until it has printed this; return the first group.

        Raises:
            ServerFailed: it ended without that, or took too long.
        """
        give_up_at = time.monotonic() + LISTEN_LIMIT
        while (found := re.search(pattern, self.log)) is None:
            if self.popen.poll() is not None or time.monotonic() > give_up_at:
                raise ServerFailed(f"expected {pattern!r} in the program's log, got:\n{self.log}")
            time.sleep(0.002)
        return found[1]

    def wait_until_ready(self) -> float:
        """Return the seconds from the start of the process to an engine that takes requests.

        Raises:
            ServerFailed: it ended, or its engine could not be loaded, or it took too long.
        """
        while time.perf_counter() - self.began < START_LIMIT:
            if self.popen.poll() is not None:
                raise ServerFailed(f"the server ended with status {self.popen.returncode}; its log:\n{self.log}")
            if (status := status_of(self.target)) == "ok":
                return time.perf_counter() - self.began
            if status not in (None, "loading"):
                raise ServerFailed(f"the server takes no requests: {status}")
            time.sleep(0.05)
        raise ServerFailed(f"the server was not ready after {START_LIMIT:.0f} s; its log:\n{self.log}")

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds. Raises ServerFailed if the program ends before, or it takes too long."""
        give_up_at = time.monotonic() + LISTEN_LIMIT
        while not condition():
            if self.popen.poll() is not None or time.monotonic() > give_up_at:
                raise ServerFailed(f"the program is not as far as expected; its log:\n{self.log}")
            time.sleep(0.02)

    @property
    def memory(self) -> int:
        """Bytes that the process holds (its resident set)."""
        return memory_of(self.popen.pid)

    @property
    def peak_memory(self) -> int:
        """The most bytes that the process has held at once."""
        return memory_of(self.popen.pid, "VmHWM")

    def children(self, part: str = "") -> list[int]:
        """The processes that it has started and that have this in their command line, the oldest first."""
        return [pid for pid in children_of(self.popen.pid) if part in command_line_of(pid)]

    def cpu_seconds(self) -> float | None:
        """Processor time of the process and its children, ended ones too, user and system; None without a /proc."""
        ticks = 0
        for status in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # a process that has ended meanwhile
                # The name, in parentheses, may contain spaces and parentheses; the fields after it do not.
                fields = status.read_text().rpartition(") ")[2].split()
                if str(self.popen.pid) in (status.parent.name, fields[1]):
                    ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK") if ticks else None


def memory_of(pid: int, field: str = "VmRSS") -> int:
    """Bytes that a process holds (its resident set), or another size that the system knows of it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def children_of(parent: int) -> list[int]:
    """The processes that a process has started, the oldest first; none where there is no /proc."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # a process that has ended meanwhile
            state, parent_pid, *_ = status.read_text().rpartition(") ")[2].split()
            if int(parent_pid) == parent and state != "Z":
                found.append(int(status.parent.name))
    return sorted(found)


def command_line_of(pid: int) -> str:
    """A process' command line; empty if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def status_of(target: Target) -> str | None:
    """What /health says, or None as long as there is no answer."""
    with suppress(OSError):
        return asyncio.run(asyncio.wait_for(ask_health(target), HEALTH_LIMIT)).status
    return None


@contextmanager
def running(
    arguments: Sequence[str],
    settings: Mapping[str, str] | None = None,
    end_limit: float = END_LIMIT,
    program: str = sys.executable,
    folder: Path = ROOT,
) -> Iterator[Process]:
    """Run a program with `arguments` in a folder, its output in a file, until the block ends.

    The process inherits the environment without the `ENGINE_` settings; `settings` are added to it. At the end it is
    told to end, and killed with all that it started if that takes longer than `end_limit`. It is told too when this
    program is (SIGTERM).
    """
    _exit_on_sigterm()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ENGINE_")}
    environ |= {"NO_COLOR": "1", **(settings or {})}
    with tempfile.TemporaryDirectory() as log_folder:
        log_file = Path(log_folder, "log")
        with log_file.open("wb") as log:
            popen = subprocess.Popen(
                [program, *arguments], cwd=folder, env=environ, stdout=log, stderr=log, start_new_session=True
            )
        try:
            yield Process(popen, log_file, time.perf_counter())
        finally:
            _end(popen, end_limit)


@contextmanager
def launched(command: Command, settings: Mapping[str, str] | None = None) -> Iterator[Process]:
    """Run a server on a free port until the block ends. Call `wait_until_ready` before the first request."""
    port = free_port()
    with running(command(port), settings) as process:
        process.given_port = port
        yield process


def _exit_on_sigterm() -> None:
    """Leave the open blocks at SIGTERM, which would otherwise end the program at once."""
    with suppress(ValueError):  # only the main thread may ask for that
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _end(popen: subprocess.Popen[bytes], limit: float) -> None:
    popen.terminate()
    with suppress(subprocess.TimeoutExpired):
        popen.wait(limit)
    with suppress(ProcessLookupError):
        os.killpg(popen.pid, signal.SIGKILL)  # the process, or workers that it has left behind
    popen.wait()
