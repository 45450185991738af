"""A server as many articles teach it: FastAPI, a synchronous generator, and a trip to a thread for every token.

    while True:
        token = await loop.run_in_executor(None, next, tokens)

Written like that it never ends: a StopIteration cannot pass through a future, so `except StopIteration` around that
line catches nothing. Here `next` gets a value to return at the end. Nor does it end when its client leaves: the error
that ends the stream keeps the generator until a garbage collection finds it, which on an idle server may not come
(`lessons/08_finally_too_late.py`). Here the stream drops it. Everything else is as in the articles.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import asdict
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


Events = Callable[[GenerateBody], Iterator[Event | None]]
"""The engine's synchronous generator: each `next` blocks until there is a token."""


def create_app(events_of: Events, health_of: Callable[[], dict[str, Any]]) -> FastAPI:
    """The server, on any generator."""
    app = FastAPI()

    def whole(body: GenerateBody) -> Completion:
        return completion([event for event in events_of(body) if isinstance(event, Token | Finished)])

    @app.post("/generate", response_model=None)
    async def generate(body: GenerateBody) -> StreamingResponse | Completion:
        loop = asyncio.get_running_loop()
        if not body.stream:
            return await loop.run_in_executor(None, whole, body)

        async def events() -> AsyncIterator[bytes]:
            tokens = events_of(body)
            try:
                while (event := await loop.run_in_executor(None, next, tokens, END)) is not END:
                    assert event is None or isinstance(event, Token | Finished | Failed)
                    yield HEARTBEAT if event is None else frame(stream_event(event))
                yield DONE
            finally:
                # `close` would fail while a thread is in `next`. That thread then has the last reference.
                del tokens

        return StreamingResponse(events(), media_type="text/event-stream")

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return health_of()

    return app


def of_driver(driver: Driver) -> tuple[Events, Callable[[], dict[str, Any]]]:
    """Events and health of the engine that the doors have, through the synchronous driver of the WSGI door."""

    def events_of(body: GenerateBody) -> Iterator[Event | None]:
        request = GenerationRequest(TextPrompt(body.prompt), body.params())
        with closing(driver.submit([request], contract.request_id(None))) as generation:
            yield from generation.events()

    def health_of() -> dict[str, Any]:
        driver.start()
        return {"status": driver.status} | asdict(driver.counters())

    return events_of, health_of
