"""The server of the soak: a door on a model, some of whose steps raise.

DOOR=raw_asgi RAISE_EVERY=400 python -m uvicorn --factory study.soak.server:flawed_app
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

STATE_PATH = "/soak/state"
"""The path that reports how many tasks the server's loop has, and how many steps have raised."""


class _Flaw:
    """Makes every so many steps of an engine raise."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._steps = 0
        self.raised = 0

    def load(self, config: Config) -> EngineService:
        engine = load_engine(config)
        runner: Any = engine._runner  # type: ignore[attr-defined]
        step = runner.step

        def flawed_step(*arguments: Any) -> Any:
            self._steps += 1
            if self._steps % self._every == 0:
                self.raised += 1
                raise RuntimeError("a step that raises now and then")
            return step(*arguments)

        runner.step = flawed_step
        from inference.tensor_thread import on_tensor_thread  # it needs torch, which comes with the engine

        return SteppedService(engine, config.step_limit, on_tensor_thread)


def flawed_app() -> ASGIApp:
    """DOOR's application, configured by the environment. One of RAISE_EVERY steps raises."""
    flaw = _Flaw(int(os.environ["RAISE_EVERY"]))
    app = importlib.import_module(os.environ["DOOR"]).create_app(Driver(Config.from_environment_or_exit(), flaw.load))
    return _telling_state(app, flaw)


def _telling_state(app: ASGIApp, flaw: _Flaw) -> ASGIApp:
    async def telling(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != STATE_PATH:
            await app(scope, receive, send)
            return
        body = json.dumps({"tasks": len(asyncio.all_tasks()), "raised": flaw.raised}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return telling
