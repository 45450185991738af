"""The servers that `study.benchmarks.bench_transport` compares.

    python -m study.benchmarks.transport_servers NAME PORT

NAME is a door (`app`, `raw_asgi`) or `article`, on an engine that makes a token whenever it is asked, so that only
the transport is left to measure; or `hop_per_step` or `staying_worker`: raw_asgi on the bundled model, driven either
way.
"""

import importlib
import logging
import sys
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import Any

import uvicorn
from anyio import to_thread

import raw_asgi
from backends.own_engine import load_engine
from backends.stepped import SteppedService
from config import Config
from interface.completion import stream_event
from interface.engine import Counters, ModelInfo, Sink, Tokenized
from interface.events import Event, Finished, Token
from interface.requests import DEFAULT_MAX_TOKENS, EncodedRequest, GenerationRequest, Prompt, SequenceId
from serving.driver import Driver


def token(index: int) -> Token:
    return Token(f" token{index}", index, 1.0, index == 0)


def finished(tokens: int) -> Finished:
    return Finished("length", 1, tokens, 1.0, 1.0, 2.0)


class InstantEngine:
    """One token per step for every running request, at no cost."""

    def __init__(self) -> None:
        self._arrivals: deque[tuple[SequenceId, int, Sink] | SequenceId] = deque()
        self._running: dict[SequenceId, tuple[Iterator[int], int, Sink]] = {}

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(context=1_000_000, vocabulary=1_000_000, tokenizer={})

    def tokenize(self, prompt: Prompt) -> Tokenized:
        return Tokenized([0], [""])

    def detokenize(self, token_ids: Sequence[int]) -> str:
        return ""

    def encode(self, requests: Sequence[GenerationRequest]) -> list[EncodedRequest]:
        return [EncodedRequest(request, [0], request.params) for request in requests]

    def submit(self, requests: Sequence[EncodedRequest], sink: Sink) -> None:
        for encoded in requests:
            self._arrivals.append((encoded.sequence_id, encoded.params.max_tokens or DEFAULT_MAX_TOKENS, sink))

    def abort(self, sequence_id: SequenceId) -> None:
        self._arrivals.append(sequence_id)

    def step(self) -> bool:
        while self._arrivals:
            arrival = self._arrivals.popleft()
            if isinstance(arrival, tuple):
                sequence_id, tokens, sink = arrival
                self._running[sequence_id] = (iter(range(tokens)), tokens, sink)
            else:
                self._running.pop(arrival, None)
        events: dict[Sink, list[tuple[SequenceId, Event]]] = defaultdict(list)
        for sequence_id, (indices, tokens, sink) in list(self._running.items()):
            index = next(indices)
            events[sink].append((sequence_id, token(index)))
            if index + 1 == tokens:
                events[sink].append((sequence_id, finished(tokens)))
                del self._running[sequence_id]
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

    from contract.generate import GenerateBody
    from contract.sse import DONE, frame

    app = FastAPI()

    def events(tokens: int) -> Iterator[Event]:
        for index in range(tokens):
            yield token(index)
        yield finished(tokens)

    @app.post("/generate")
    async def generate(body: GenerateBody) -> StreamingResponse:
        async def stream() -> Any:
            loop = asyncio.get_running_loop()
            generator = events(body.max_tokens or DEFAULT_MAX_TOKENS)
            while isinstance(event := await loop.run_in_executor(None, next, generator, END), Token | Finished):
                yield frame(stream_event(event))
            yield DONE

        return StreamingResponse(stream(), media_type="text/event-stream")

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


class HopPerStepService(SteppedService):
    """What `SteppedService` does not do: come back to the loop after every step, and hop again for the next."""

    async def _work_until_idle(self) -> None:
        while await to_thread.run_sync(self._engine.step, limiter=self._step_limiter):
            pass


def server_app(name: str) -> Any:
    config = Config()
    match name:
        case "app" | "raw_asgi":
            return importlib.import_module(name).create_app(
                Driver(config, lambda config: SteppedService(InstantEngine()))
            )
        case "article":
            return article_app()
        case "hop_per_step":
            return raw_asgi.create_app(Driver(config, lambda config: HopPerStepService(load_engine(config))))
        case "staying_worker":
            return raw_asgi.create_app(Driver(config))
    raise SystemExit(f"error: expected a server of this file, got {name!r}")


if __name__ == "__main__":
    logging.getLogger("engine.access").setLevel(logging.WARNING)
    uvicorn.run(server_app(sys.argv[1]), port=int(sys.argv[2]), log_level="warning", access_log=False)
