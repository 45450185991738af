"""The servers of the comparison, each a process of its own on a free port, started as a user would start it."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from study.compare.client import Health, ask_health

EngineKind = Literal["paced", "model"]
ROOT = Path(__file__).parents[2]
WSGI_THREADS = 16
STALL_SECONDS = 1
START_LIMIT = 120.0


@dataclass(frozen=True)
class Kind:
    """One column: what it is called, and how it is started."""

    name: str
    title: str
    what: str
    command: tuple[str, ...]

    def arguments(self, port: int) -> list[str]:
        module = self.command[0]
        where = ["--bind", f"127.0.0.1:{port}"] if module == "gunicorn" else ["--port", str(port)]
        return [sys.executable, "-m", *self.command, *where]


# Gunicorn kills a sync worker that has been busy with one request for 30 s; on a slow machine that is not the question.
GUNICORN = ("gunicorn", "--no-control-socket", "--log-level", "warning", "--graceful-timeout", "1", "--timeout", "300")
UVICORN = ("uvicorn", "--log-level", "warning", "--no-access-log", "--timeout-graceful-shutdown", "1", "--factory")

KINDS = (
    Kind(
        "wsgi_sync",
        "WSGI (1 worker)",
        "raw_wsgi.py, gunicorn, one sync worker",
        (*GUNICORN, "study.compare.apps:raw_wsgi()"),
    ),
    Kind(
        "wsgi_threads",
        f"WSGI ({WSGI_THREADS} threads)",
        f"raw_wsgi.py, gunicorn, one worker of {WSGI_THREADS} threads",
        (*GUNICORN, "--threads", str(WSGI_THREADS), "study.compare.apps:raw_wsgi()"),
    ),
    Kind("article", "the article's", "article_server.py, uvicorn", (*UVICORN, "study.compare.apps:article")),
    Kind("starlette", "Starlette", "app.py, uvicorn", (*UVICORN, "study.compare.apps:starlette")),
    Kind("raw_asgi", "raw ASGI", "raw_asgi.py, uvicorn", (*UVICORN, "study.compare.apps:raw_asgi")),
)


class ServerFailed(RuntimeError):
    """A server did not start; the message has its log."""


@dataclass
class Server:
    """A server that runs."""

    kind: Kind
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def wait_until_ready(self) -> None:
        """Raises ServerFailed: it ended, or its engine could not be loaded, or it took too long."""
        give_up_at = time.monotonic() + START_LIMIT
        while time.monotonic() < give_up_at:
            if self.process.poll() is not None:
                raise ServerFailed(f"{self.kind.title} ended with {self.process.returncode}:\n{self.log.read_text()}")
            with suppress(OSError):
                status = self.health().status
                if status == "ok":
                    return
                if status != "loading":
                    raise ServerFailed(f"{self.kind.title}: {status}")
            time.sleep(0.05)
        raise ServerFailed(f"{self.kind.title} was not ready after {START_LIMIT:.0f} s:\n{self.log.read_text()}")

    def health(self) -> Health:
        return asyncio.run(ask_health(self.port))

    def cpu_seconds(self) -> float | None:
        """Processor time of the process and its children, user and system; None where there is no /proc."""
        ticks = 0
        for status in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # a process that ended meanwhile
                # The name, in parentheses, may hold anything; what follows has no surprises.
                fields = status.read_text().rpartition(") ")[2].split()
                if str(self.process.pid) in (status.parent.name, fields[1]):
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK") if ticks else None


@contextmanager
def running(kinds: tuple[Kind, ...], engine: EngineKind) -> Iterator[list[Server]]:
    """Run a server of each kind, all of them ready; end them with the block.

    Raises:
        ServerFailed: one did not start.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ENGINE_")}
    environ |= {"COMPARE_ENGINE": engine, "ENGINE_STALL": str(STALL_SECONDS)}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = [stack.enter_context(_process(kind, environ, folder / kind.name)) for kind in kinds]
        for server in servers:
            server.wait_until_ready()
        yield servers


@contextmanager
def _process(kind: Kind, environ: dict[str, str], log: Path) -> Iterator[Server]:
    port = _free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            kind.arguments(port), cwd=ROOT, env=environ, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield Server(kind, port, process, log)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its workers too
            process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
