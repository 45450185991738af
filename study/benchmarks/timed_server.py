"""`raw_asgi` with a clock: how long after the end of its step each token's message is handed to the server.

    uvicorn benchmarks.timed_server:app

GET /delays answers, for all token messages since it was last asked, [seconds, tokens that the same step made], and
forgets them.
"""

import time
from collections import defaultdict, deque
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config import Config
from contract.answers import json_answer
from interface.request import Event, GenerationRequest, RequestId, Token
from raw_asgi import create_app, respond
from serving.driver import Driver, Generation


class TimedDriver(Driver):
    """Notes when each request's tokens come out of a step."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.numbers: dict[str, RequestId] = {}
        self.step_ends: dict[RequestId, deque[tuple[float, int]]] = defaultdict(deque)

    async def submit(self, request: GenerationRequest, request_id: str) -> Generation:
        generation = await super().submit(request, request_id)
        self.numbers[request_id] = generation.number
        return generation

    def _hand_over(self, events: Sequence[tuple[RequestId, Event]]) -> None:
        now = time.perf_counter()  # the step's last act is to hand its events over
        numbers = [number for number, event in events if isinstance(event, Token)]
        for number in numbers:
            self.step_ends[number].append((now, len(numbers)))
        super()._hand_over(events)


def timed(app: ASGIApp, driver: TimedDriver) -> ASGIApp:
    """The application, with the times of its token messages at /delays."""
    delays: list[tuple[float, int]] = []

    async def timed_app(scope: Scope, receive: Receive, send: Send) -> None:
        async def timed_send(message: Message) -> None:
            if message.get("body", b"").startswith(b'data: {"token"'):
                ended_at, tokens = driver.step_ends[driver.numbers[scope["request_id"]]].popleft()
                delays.append((time.perf_counter() - ended_at, tokens))
            await send(message)

        if scope["type"] == "http" and scope["path"] == "/delays":
            answer = json_answer(200, delays)
            delays.clear()
            await respond(scope, send, answer)
        else:
            await app(scope, receive, timed_send)

    return timed_app


_driver = TimedDriver(Config.from_environment_or_exit())
app = timed(create_app(_driver), _driver)
