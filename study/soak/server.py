"""The server of the soak: a door on a model, some of whose steps raise.

DOOR=raw_asgi python -m uvicorn --factory study.soak.server:flawed_app
"""

import asyncio
import importlib
import json
import os
from typing import Any

from backends.own_engine import load_engine
from backends.stepped import SteppedService
from config import Config
from interface.engine import EngineService
from serving.asgi import ASGIApp, Receive, Scope, Send
from serving.driver import Driver

RAISE_EVERY = 400
"""Steps from one that raises to the next."""
TASKS_PATH = "/soak/tasks"
"""The path that reports how many tasks the server's loop has."""


def flawed_app() -> ASGIApp:
    """DOOR's application, configured by the environment."""
    app = importlib.import_module(os.environ["DOOR"]).create_app(Driver(Config.from_environment_or_exit(), _load))
    return _telling_tasks(app)


def _telling_tasks(app: ASGIApp) -> ASGIApp:
    async def telling(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != TASKS_PATH:
            await app(scope, receive, send)
            return
        body = json.dumps({"tasks": len(asyncio.all_tasks())}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return telling


def _load(config: Config) -> EngineService:
    engine = load_engine(config)
    runner: Any = engine._runner  # type: ignore[attr-defined]
    step = runner.step
    steps = 0

    def flawed_step(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps % RAISE_EVERY == 0:
            raise RuntimeError("a step that raises now and then")
        return step(*arguments)

    runner.step = flawed_step
    from inference.tensor_thread import on_tensor_thread  # it needs torch, which comes with the engine

    return SteppedService(engine, config.step_limit, on_tensor_thread)
