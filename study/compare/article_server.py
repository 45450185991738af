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
from contract.generate import GenerateBody
from contract.sse import DONE, HEARTBEAT, frame
from interface.completion import Completion, completion, stream_event
from interface.events import Event, Failed, Finished, Token
from interface.requests import GenerationRequest, TextPrompt
from serving.sync_driver import Driver

END = object()


def requests_of(body: GenerateBody) -> list[GenerationRequest]:
    return [GenerationRequest(TextPrompt(body.prompt), body.params())]


def generate_stream(driver: Driver, body: GenerateBody) -> Iterator[Event | None]:
    """The engine's synchronous generator: each `next` blocks until there is a token."""
    with closing(driver.submit(requests_of(body), contract.request_id(None))) as generation:
        yield from generation.events()


def generate_whole(driver: Driver, body: GenerateBody) -> Completion:
    events = list(generate_stream(driver, body))
    return completion([event for event in events if isinstance(event, Token | Finished)])


def create_app(driver: Driver) -> FastAPI:
    app = FastAPI()

    @app.post("/generate", response_model=None)
    async def generate(body: GenerateBody) -> StreamingResponse | Completion:
        loop = asyncio.get_running_loop()
        if not body.stream:
            return await loop.run_in_executor(None, generate_whole, driver, body)

        async def events() -> AsyncIterator[bytes]:
            tokens = generate_stream(driver, body)
            while (event := await loop.run_in_executor(None, next, tokens, END)) is not END:
                assert event is None or isinstance(event, Token | Finished | Failed)
                yield HEARTBEAT if event is None else frame(stream_event(event))
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
