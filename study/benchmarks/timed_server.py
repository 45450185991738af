"""`raw_asgi` with a clock: how long after the end of its step each token's message is handed to the server.

    uvicorn study.benchmarks.timed_server:app

GET /delays answers with [seconds, tokens that the same step made] for each token message since the last such request.
"""

import time
from collections import defaultdict, deque

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backends.own_engine import load_engine
from backends.stepped import SteppedService
from config import Config
from interface.calls import Call
from interface.engine import EngineProtocol, EngineService, StepEvents
from interface.events import Token
from interface.requests import SequenceId
from raw_asgi import create_app
from serving.driver import Driver
from serving.generation import Generation


class TimedService(SteppedService):
    """Notes when each sequence's tokens come out of a step."""

    def __init__(self, engine: EngineProtocol) -> None:
        from inference.tensor_thread import on_tensor_thread  # it needs torch, which comes with the engine

        super().__init__(engine, on_own_thread=on_tensor_thread)
        self.step_ends: dict[SequenceId, deque[tuple[float, int]]] = defaultdict(deque)

    def _hand_over(self, events: StepEvents) -> None:
        now = time.perf_counter()  # the step's last act is to hand its events over
        sequences = [sequence_id for sequence_id, event in events if isinstance(event, Token)]
        for sequence_id in sequences:
            self.step_ends[sequence_id].append((now, len(sequences)))
        super()._hand_over(events)


class TimedDriver(Driver):
    """Knows which sequence belongs to which request."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, self._load_timed)
        self.sequence_ids: dict[str, SequenceId] = {}

    async def begin(self, call: Call, request_id: str) -> Generation:
        self.sequence_ids[request_id] = call.requests[0].sequence_id
        return await super().begin(call, request_id)

    def _load_timed(self, config: Config) -> EngineService:
        self.service = TimedService(load_engine(config))
        return self.service


def timed(app: ASGIApp, driver: TimedDriver) -> ASGIApp:
    """The application, with the times of its token messages at /delays."""
    delays: list[tuple[float, int]] = []

    async def timed_app(scope: Scope, receive: Receive, send: Send) -> None:
        async def timed_send(message: Message) -> None:
            if message.get("body", b"").startswith(b'data: {"token"'):
                ended_at, tokens = driver.service.step_ends[driver.sequence_ids[scope["request_id"]]].popleft()
                delays.append((time.perf_counter() - ended_at, tokens))
            await send(message)

        if scope["type"] == "http" and scope["path"] == "/delays":
            answer = JSONResponse(delays)
            delays.clear()
            await answer(scope, receive, send)
        else:
            await app(scope, receive, timed_send)

    return timed_app


_driver = TimedDriver(Config.from_environment_or_exit())
app = timed(create_app(_driver), _driver)
