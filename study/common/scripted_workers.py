"""A door in several processes over a scripted engine in another one.

    python -m study.common.scripted_workers raw_asgi --workers 2        # 0: all in one process
    ENGINE_SOCKET=/tmp/engine.sock python -m study.common.scripted_workers engine

Settings come from the environment.
"""

import importlib
import re
import sys
from typing import Any

import uvicorn

from backends.stepped import SteppedService
from config import Config
from interface.engine import EngineService
from serving import engine_process, workers
from serving.driver import Driver
from study.common.arguments import argument_parser
from study.common.engine import ScriptedEngine
from study.common.launcher import Process

NAME = "study.common.scripted_workers"


def scripted_service(config: Config) -> EngineService:
    """The service of a scripted engine with the room that the settings name."""
    return SteppedService(ScriptedEngine(config.max_streams, config.max_waiting), config.step_limit)


def main() -> None:
    if sys.argv[1:2] == ["engine"]:
        engine_process.main(scripted_service, sys.argv[2:])
    parser = argument_parser(__doc__)
    parser.add_argument("door")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    config = Config.from_environment_or_exit()
    settings: dict[str, Any] = {"port": options.port, "http": "h11", "access_log": False}
    if options.workers:
        server = uvicorn.Config(f"{options.door}:app", workers=options.workers, **settings)
        raise SystemExit(workers.serve(server, config, ("-m", NAME, "engine")))
    uvicorn.run(importlib.import_module(options.door).create_app(Driver(config, scripted_service)), **settings)


def ready(log: str) -> int:
    """How many workers have logged that they are ready. (The engine's process logs its folder's whole path.)"""
    return len(re.findall(r" bundled_model is ready after", log))


def all_ready(process: Process, workers: int) -> bool:
    """Whether so many workers have logged that they are ready, and connections are accepted, which begins just after.

    The port is bound from the start, so a single worker that has only logged it refuses them.
    """
    return ready(process.log) == workers and process.accepts_connections()


if __name__ == "__main__":
    main()
