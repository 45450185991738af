"""The servers that `study.benchmarks.bench_transport` compares.

    python -m study.benchmarks.transport_servers NAME PORT

NAME is a door (`app`, `raw_asgi`) or `article`, on an engine that makes tokens at once, so that only the transport is
measured; or `hop_per_step` or `staying_worker`: raw_asgi on the bundled model, with a thread that is stepped in either
way.
"""

import importlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

import uvicorn
from anyio import to_thread

import raw_asgi
from backends.own_engine import load_engine
from backends.stepped import SteppedService
from config import Config
from contract.generate import GenerateBody
from interface.events import Event, Finished, Token
from serving.driver import Driver
from study.common import article
from study.common.engine import instant_engine


def scripted_events(body: GenerateBody) -> Iterator[Event]:
    """The events that the instant engine would emit, without an engine."""
    assert body.max_tokens is not None
    for index in range(body.max_tokens):
        yield Token("xxxxx", index, 1.0, index == 0)
    yield Finished("length", 1, body.max_tokens, 1.0, 1.0, 2.0)


class HopPerStepService(SteppedService):
    """Comes back to the loop after every step, and hops again for the next, which `SteppedService` does not."""

    async def _work_until_idle(self) -> None:
        while await to_thread.run_sync(self._engine.step, limiter=self._step_limiter):
            pass


def server_app(name: str) -> Any:
    config = Config()
    match name:
        case "app" | "raw_asgi":
            return importlib.import_module(name).create_app(
                Driver(config, lambda config: SteppedService(instant_engine()))
            )
        case "article":
            return article.create_app(scripted_events, lambda: {"status": "ok"})
        case "hop_per_step":
            return raw_asgi.create_app(Driver(config, lambda config: HopPerStepService(load_engine(config))))
        case "staying_worker":
            return raw_asgi.create_app(Driver(config))
    raise SystemExit(f"error: expected a server of this file, got {name!r}")


if __name__ == "__main__":
    logging.getLogger("engine.access").setLevel(logging.WARNING)
    uvicorn.run(server_app(sys.argv[1]), port=int(sys.argv[2]), log_level="warning", access_log=False)
