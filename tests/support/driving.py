"""What the driver's tests share: a driver that runs, and one request's events."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from backends.stepped import SteppedService
from config import Config
from interface.engine import EngineService
from interface.events import Event, Failed, Finished, Token
from interface.requests import text_request
from serving.driver import Driver
from serving.generation import Generation
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import PATIENCE, until


@asynccontextmanager
async def driving(
    engine: ScriptedEngine,
    config: Config | None = None,
    service: Callable[[ScriptedEngine], EngineService] = SteppedService,
) -> AsyncIterator[Driver]:
    driver = Driver(config or Config(), lambda config: service(engine))
    async with driver.running():
        await until(lambda: driver.status != "loading" and not driver.status.startswith("stopped"))
        try:
            yield driver
        finally:
            engine.release()


async def submit(driver: Driver, prompt: str = "hello", max_tokens: int = 128) -> Generation:
    return await driver.submit([text_request(prompt, max_tokens=max_tokens)], "an-id")


async def never() -> None:
    """A client that stays."""
    await asyncio.Event().wait()


def signalled() -> asyncio.Event:
    """The state after a signal."""
    event = asyncio.Event()
    event.set()
    return event


async def stuck() -> str:
    """A send that never ends."""
    await never()
    return "sent"


async def all_events(generation: Generation, gone: Callable[[], Awaitable[None]] = never) -> list[Event]:
    """All events of one generation, to its end."""
    events: list[Event] = []

    async def collect() -> None:
        events.extend([event async for event in generation.events() if event is not None])

    async with asyncio.timeout(PATIENCE):
        await generation.run(collect, gone)
    return events


def terminal(events: Sequence[Event]) -> Finished | Failed:
    """The one terminal event, which must be the last."""
    *tokens, end = events
    assert all(isinstance(token, Token) for token in tokens)
    assert isinstance(end, Finished | Failed)
    return end
