"""Three ways to serve a door with a scripted engine behind it: by hand, on a socket, and in a process of its own.

async with by_hand(door) as service:            # messages; see asgi_client.py
with on_a_socket(door) as service:              # uvicorn in a thread; see http_client.py
with in_a_process(["-m", "uvicorn", "raw_asgi:app", "--port", "0"]) as process:  # as a user starts it, for signals
"""

import asyncio
import importlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from config import Config
from interface.request import EngineVerbs
from serving.driver import Driver
from tests.support.asgi_client import PATIENCE, Client, lifespan, until
from tests.support.scripted_engine import ScriptedEngine

DOORS = ("app", "raw_asgi")
Door = Callable[[Driver], Any]
ROOT = Path(__file__).parents[2]


@dataclass
class Service:
    """A door, the driver behind it and the engine behind that."""

    app: Any
    driver: Driver
    engine: ScriptedEngine
    client: Client = field(init=False)
    port: int = 0

    def __post_init__(self) -> None:
        self.client = Client(self.app)


def assemble(
    door: Door,
    engine: ScriptedEngine | None = None,
    config: Config | None = None,
    load: Callable[[Config], EngineVerbs] | None = None,
) -> Service:
    """The parts put together, not yet running."""
    engine = engine or ScriptedEngine()
    driver = Driver(config or Config(), load or (lambda config: engine))
    return Service(door(driver), driver, engine)


@asynccontextmanager
async def by_hand(
    door: Door, engine: ScriptedEngine | None = None, config: Config | None = None
) -> AsyncIterator[Service]:
    """Run the lifespan protocol around a block; the engine has loaded when it begins."""
    service = assemble(door, engine, config)
    async with lifespan(service.app):
        await until(lambda: service.driver.status == "ok", "the engine's start")
        try:
            yield service
        finally:
            service.engine.release()  # a step that is held would hold up the end


@contextmanager
def on_a_socket(
    door: Door, engine: ScriptedEngine | None = None, config: Config | None = None, **settings: Any
) -> Iterator[Service]:
    """Serve with a real uvicorn, on a free port, in a thread. `settings` are uvicorn's."""
    service = assemble(door, engine, config)
    server = uvicorn.Server(
        uvicorn.Config(
            service.app, port=0, log_config=None, lifespan="on", timeout_graceful_shutdown=int(PATIENCE), **settings
        )
    )
    # The loop that uvicorn would take for itself depends on what else is installed.
    thread = threading.Thread(target=asyncio.run, args=(server.serve(),), name="uvicorn", daemon=True)
    thread.start()
    wait_until(lambda: server.started and service.driver.status == "ok", "the server's start")
    service.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield service
    finally:
        service.engine.release()
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the server did not end"


@dataclass
class Process:
    """A program that serves, and what it has said so far."""

    popen: subprocess.Popen[bytes]
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def port(self) -> int:
        """The port, once the server says it."""
        pattern = re.compile(r"running on http://127\.0\.0\.1:(\d+)")
        wait_until(lambda: pattern.search(self.log) or self.popen.poll() is not None, "the server's start")
        found = pattern.search(self.log)
        assert found, self.log
        return int(found[1])

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self.popen.send_signal(signal.SIGINT)

    def wait(self) -> int:
        return self.popen.wait(PATIENCE)


@contextmanager
def in_a_process(arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> Iterator[Process]:
    """Run `python` with `arguments` in the repository's root, its output in a file, until the block ends."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ENGINE_")}
    with tempfile.TemporaryDirectory() as folder:
        log_file = Path(folder, "log")
        with log_file.open("wb") as output:
            popen = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env={**inherited, "NO_COLOR": "1", **(environ or {})},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield Process(popen, log_file)
        finally:
            popen.kill()
            popen.wait()


def scripted_app() -> Any:
    """For `uvicorn --factory tests.support.serving:scripted_app`: DOOR's door, configured by its environment.

    Its engine takes LOAD_SECONDS to load.
    """

    def load(config: Config) -> EngineVerbs:
        time.sleep(float(os.environ.get("LOAD_SECONDS", "0")))
        return ScriptedEngine(config.max_streams, config.max_waiting)

    door: Door = importlib.import_module(os.environ["DOOR"]).create_app
    return assemble(door, config=Config.from_environment_or_exit(), load=load).app


def wait_until(condition: Callable[[], Any], what: str = "the condition") -> None:
    """Wait, on a thread that no loop runs on, for something that happens on another."""
    give_up_at = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up_at, f"{what} did not come about in {PATIENCE} s"
        time.sleep(0.002)
