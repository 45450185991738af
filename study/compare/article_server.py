"""A server as many articles teach it: FastAPI, a synchronous generator, and a trip to a thread for every token.

    while True:
        token = await loop.run_in_executor(None, next, tokens)

Written like that it never ends: a StopIteration cannot pass through a future, so `except StopIteration` around that
line catches nothing. Here `next` gets a value to return at the end; everything else is as it is taught. The engine is
the one that the doors have, through the synchronous driver of the WSGI door.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

import contract
from contract.sse import DONE, HEARTBEAT, frame
from interface.request import Event, Finished, Token, answer
from serving.sync_driver import Driver

END = object()


def generate_stream(driver: Driver, body: contract.GenerateBody) -> Iterator[Event | None]:
    """The engine's synchronous generator: each `next` blocks until there is a token."""
    with closing(driver.submit(body, contract.request_id(None))) as generation:
        yield from generation.events()


def generate_whole(driver: Driver, body: contract.GenerateBody) -> dict[str, Any]:
    events = list(generate_stream(driver, body))
    finished = events[-1]
    assert isinstance(finished, Finished)
    return answer([event for event in events if isinstance(event, Token)], finished)


def create_app(driver: Driver) -> FastAPI:
    app = FastAPI()

    @app.post("/generate", response_model=None)
    async def generate(body: contract.GenerateBody) -> StreamingResponse | dict[str, Any]:
        loop = asyncio.get_running_loop()
        if not body.stream:
            return await loop.run_in_executor(None, generate_whole, driver, body)

        async def events() -> AsyncIterator[bytes]:
            tokens = generate_stream(driver, body)
            while (event := await loop.run_in_executor(None, next, tokens, END)) is not END:
                assert event is None or isinstance(event, Event)
                yield HEARTBEAT if event is None else frame(event)
            yield DONE

        return StreamingResponse(events(), media_type="text/event-stream")

    @app.get("/health")
    async def health() -> dict[str, Any]:
        driver.start()
        counters = driver.counters()
        return {
            "status": driver.status,
            "running": counters.running,
            "waiting": counters.waiting,
            "generated_tokens": counters.generated_tokens,
        }

    return app
