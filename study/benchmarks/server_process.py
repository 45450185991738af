"""A server as a process of its own: started on a free port, waited for, measured, ended."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from study.benchmarks.load import Target, ask

ROOT = Path(__file__).parents[2]
START_LIMIT = 600.0
"""Seconds that a server may take to become ready: compiling is the longest of it."""


class Server:
    """`uvicorn raw_asgi:app`, or another app, with settings of its own. Use `serving`, which ends it too."""

    def __init__(self, settings: Mapping[str, str], app: str = "raw_asgi:app") -> None:
        self.port = _free_port()
        self.target = Target(f"http://127.0.0.1:{self.port}/generate")
        environ = {name: value for name, value in os.environ.items() if not name.startswith("ENGINE_")} | dict(settings)
        command = [sys.executable, "-m", "uvicorn", app, "--port", str(self.port), "--no-access-log"]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed in `end`)
        self._began = time.perf_counter()
        self._process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=self._log, stderr=self._log)

    def wait_until_ready(self) -> float:
        """Return the seconds from the start of the process to an engine that takes requests."""
        while time.perf_counter() - self._began < START_LIMIT:
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended with status {self._process.returncode}; its log:\n{self.log}")
            if (status := self._status()) == "ok":
                return time.perf_counter() - self._began
            if status not in (None, "loading"):
                raise RuntimeError(f"the server is not well: {status}")
            time.sleep(0.05)
        raise RuntimeError(f"the server was not ready after {START_LIMIT:.0f} s")

    @property
    def memory(self) -> int:
        """Bytes that the process holds (its resident set)."""
        return self._status_bytes("VmRSS")

    @property
    def peak_memory(self) -> int:
        """The most bytes that the process has held at once."""
        return self._status_bytes("VmHWM")

    def _status_bytes(self, field: str) -> int:
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _status(self) -> str | None:
        try:
            _, body = asyncio.run(ask(self.target.beside("/health")))
        except OSError:
            return None
        status: str = json.loads(body)["status"]
        return status


@contextmanager
def serving(settings: Mapping[str, str], app: str = "raw_asgi:app") -> Iterator[Server]:
    server = Server(settings, app)
    try:
        yield server
    finally:
        server.end()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
