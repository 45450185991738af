"""The servers that `benchmarks.bench_transport` compares.

    python -m study.benchmarks.transport_servers NAME PORT

NAME is a door (`app`, `raw_asgi`) or `article`, on an engine that makes a token whenever it is asked, so that only
the transport is left to measure; or `hop_per_step` or `staying_worker`: raw_asgi on the bundled model, driven either
way.
"""

import importlib
import itertools
import logging
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from typing import Any

import uvicorn
from anyio import to_thread

import raw_asgi
from config import Config
from interface.request import (
    Counters,
    EncodedRequest,
    EngineVerbs,
    Event,
    Finished,
    GenerationRequest,
    RequestId,
    Sink,
    Token,
)
from serving.driver import Driver


def token(index: int) -> Token:
    return Token(f" token{index}", index, 1.0, index == 0)


def finished(tokens: int) -> Finished:
    return Finished("length", 1, tokens, 1.0, 1.0, 2.0)


class InstantEngine:
    """One token per step for every running request, at no cost."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._arrivals: deque[tuple[RequestId, int, Sink] | RequestId] = deque()
        self._running: dict[RequestId, tuple[Iterator[int], int, Sink]] = {}

    def encode(self, request: GenerationRequest) -> EncodedRequest:
        return EncodedRequest(request, [0])

    def submit(self, encoded: EncodedRequest, sink: Sink) -> RequestId:
        request_id = next(self._ids)
        self._arrivals.append((request_id, encoded.request.max_tokens, sink))
        return request_id

    def abort(self, request_id: RequestId) -> None:
        self._arrivals.append(request_id)

    def step(self) -> bool:
        while self._arrivals:
            arrival = self._arrivals.popleft()
            if isinstance(arrival, tuple):
                request_id, tokens, sink = arrival
                self._running[request_id] = (iter(range(tokens)), tokens, sink)
            else:
                self._running.pop(arrival, None)
        events: dict[Sink, list[tuple[RequestId, Event]]] = defaultdict(list)
        for request_id, (indices, tokens, sink) in list(self._running.items()):
            index = next(indices)
            events[sink].append((request_id, token(index)))
            if index + 1 == tokens:
                events[sink].append((request_id, finished(tokens)))
                del self._running[request_id]
        for sink, its_events in events.items():
            sink(its_events)
        return bool(self._arrivals or self._running)

    def counters(self) -> Counters:
        return Counters(len(self._running), 0, 0)


END = object()


def article_app() -> Any:
    """The article's way, made to end: FastAPI, and an executor hop for every token of every stream.

    The article awaits `run_in_executor(None, next, generator)` and never sees the end, because a StopIteration cannot
    cross a future; a sentinel mends that.
    """
    import asyncio

    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse

    from contract.sse import DONE, frame

    app = FastAPI()

    def events(tokens: int) -> Iterator[Event]:
        for index in range(tokens):
            yield token(index)
        yield finished(tokens)

    @app.post("/generate")
    async def generate(request: GenerationRequest) -> StreamingResponse:
        async def stream() -> Any:
            loop = asyncio.get_running_loop()
            generator = events(request.max_tokens)
            while isinstance(event := await loop.run_in_executor(None, next, generator, END), Token | Finished):
                yield frame(event)
            yield DONE

        return StreamingResponse(stream(), media_type="text/event-stream")

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


class HopPerStepDriver(Driver):
    """What `Driver` does not do: come back to the loop after every step, and go to the thread again for the next."""

    async def _step_until_idle(self, engine: EngineVerbs) -> None:
        while await to_thread.run_sync(engine.step, limiter=self._step_limiter):
            pass


def server_app(name: str) -> Any:
    config = Config()
    match name:
        case "app" | "raw_asgi":
            return importlib.import_module(name).create_app(Driver(config, lambda config: InstantEngine()))
        case "article":
            return article_app()
        case "hop_per_step":
            return raw_asgi.create_app(HopPerStepDriver(config))
        case "staying_worker":
            return raw_asgi.create_app(Driver(config))
    raise SystemExit(f"error: expected a server of this file, got {name!r}")


if __name__ == "__main__":
    logging.getLogger("engine.access").setLevel(logging.WARNING)
    uvicorn.run(server_app(sys.argv[1]), port=int(sys.argv[2]), log_level="warning", access_log=False)
