"""Three ways to serve a door with a scripted engine behind it: by hand, on a socket, and in a process of its own.

async with by_hand(door) as service:            # messages; see asgi_client.py
with on_a_socket(door) as service:              # a real server in a thread; see servers.py and http_client.py
with in_a_process(["-m", "uvicorn", "raw_asgi:app", "--port", "0"]) as process:  # as a user starts it, for signals
"""

import importlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from backends.stepped import SteppedService
from config import Config
from interface.engine import EngineService
from serving.driver import Driver
from study.common.engine import ScriptedEngine
from study.common.launcher import running
from tests.support.asgi_client import PATIENCE, Client, lifespan, until
from tests.support.http_client import Connection
from tests.support.servers import SERVERS

DOORS = ("app", "raw_asgi")
Door = Callable[[Driver], Any]


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
    load: Callable[[Config], EngineService] | None = None,
) -> Service:
    """The parts put together, not yet running."""
    engine = engine or ScriptedEngine()
    driver = Driver(config or Config(), load or (lambda config: SteppedService(engine)))
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
    door: Door,
    engine: ScriptedEngine | None = None,
    config: Config | None = None,
    server: str = "uvicorn",
    **settings: Any,
) -> Iterator[Service]:
    """Serve with a real server, one of `SERVERS`, on a free port, in a thread. `settings` are uvicorn's."""
    service = assemble(door, engine, config)
    with SERVERS[server](service.app, **settings) as service.port:
        wait_until(lambda: service.driver.status == "ok", "the engine's start")
        try:
            yield service
        finally:
            service.engine.release()  # a step that is held would hold up the end


def kept_busy(service: Service, stack: ExitStack, count: int) -> list[Connection]:
    """Hold so many connections, each with a request that runs until the engine is released."""
    service.engine.hold()
    connections = [stack.enter_context(Connection(service.port)) for _ in range(count)]
    for connection in connections:
        connection.send_generate("hello", stream=False)
    wait_until(lambda: service.engine.counters().running == count)
    return connections


in_a_process = partial(running, end_limit=0)
"""Run `python` with these arguments until the block ends, and kill it then."""


def scripted_app() -> Any:
    """For `uvicorn --factory tests.support.serving:scripted_app`: DOOR's door, configured by its environment.

    Its engine takes LOAD_SECONDS to load. WITHOUT names a module that is not to be found.
    """
    if "WITHOUT" in os.environ:
        sys.modules[os.environ["WITHOUT"]] = None  # type: ignore[assignment]

    def load(config: Config) -> EngineService:
        time.sleep(float(os.environ.get("LOAD_SECONDS", "0")))
        return SteppedService(ScriptedEngine(config.max_streams, config.max_waiting), config.step_limit)

    door: Door = importlib.import_module(os.environ["DOOR"]).create_app
    return assemble(door, config=Config.from_environment_or_exit(), load=load).app


def wait_until(condition: Callable[[], Any], what: str = "the condition") -> None:
    """Wait, on a thread that no loop runs on, for something that happens on another."""
    give_up_at = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up_at, f"{what} did not come about in {PATIENCE} s"
        time.sleep(0.002)
