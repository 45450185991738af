"""A client that reports how its stream ended, as strictly as HTTP allows: h11 reads the answers.

outcome = await streamed(port, "count 9", session="a")
outcome.kind                # "finished", "told of an error", "cut off", "refused 503" or "not connected"
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Self

import h11

READ = 1 << 16
ANSWER_LIMIT = 120.0
"""Seconds that one answer may take."""


class StreamRefused(RuntimeError):
    """A stream that should have begun was refused."""


@dataclass
class Outcome:
    """What a client got, and when each event of it came."""

    asked_at: float
    status: int | None = None
    body: bytearray = field(default_factory=bytearray)
    events_at: list[float] = field(default_factory=list)
    ended_at: float = 0.0
    is_complete: bool = False
    """Whether the answer ended as HTTP requires."""

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of a stream that have come whole, without `[DONE]`."""
        lines = [line for line in self.body.split(b"\n\n")[:-1] if line.startswith(b"data: {")]
        return [json.loads(line.removeprefix(b"data: ")) for line in lines]

    @property
    def kind(self) -> str:
        """How the answer ended. A stream without a proper end is never taken for a whole one."""
        if self.status is None:
            return "not connected"
        if self.status != HTTPStatus.OK:
            return f"refused {self.status}"
        last = (self.events or [{}])[-1]
        if "error" in last:
            return "told of an error"
        if self.is_complete and self.body.endswith(b"data: [DONE]\n\n") and "finish_reason" in last:
            return "finished"
        return "ended without a last event" if self.is_complete else "cut off"


class Asking:
    """One request on one connection; `outcome` grows as its answer comes."""

    def __init__(self, port: int, method: str, path: str, body: bytes = b"", session: str = "") -> None:
        headers = [("host", f"127.0.0.1:{port}"), ("connection", "close"), ("content-length", str(len(body)))]
        headers += [("content-type", "application/json")] * bool(body) + [("x-session-id", session)] * bool(session)
        self.outcome = Outcome(time.perf_counter())
        self.has_begun = asyncio.Event()
        self._port = port
        self._connection = h11.Connection(h11.CLIENT)
        request = h11.Request(method=method, target=path, headers=headers)
        parts = (request, h11.Data(data=body), h11.EndOfMessage())
        self._request = b"".join(self._connection.send(part) or b"" for part in parts)

    @classmethod
    def of_json(cls, port: int, path: str, content: Mapping[str, Any], session: str = "") -> Self:
        return cls(port, "POST", path, json.dumps(content).encode(), session)

    async def run(self) -> Outcome:
        """Send the request, and read the answer to its end. Cancelling this leaves early."""
        try:
            async with asyncio.timeout(ANSWER_LIMIT):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    writer.write(self._request)
                    async for event in self._events(reader):
                        self._take(event)
                finally:
                    writer.close()
        except (OSError, h11.RemoteProtocolError):
            pass  # the outcome has what came before
        self.outcome.ended_at = time.perf_counter()
        return self.outcome

    async def _events(self, reader: asyncio.StreamReader) -> AsyncIterator[h11.Event]:
        while not isinstance(event := self._connection.next_event(), (h11.EndOfMessage, h11.ConnectionClosed)):
            if event is h11.NEED_DATA:
                self._connection.receive_data(await reader.read(READ))
            elif isinstance(event, h11.Event):
                yield event
        yield event

    def _take(self, event: h11.Event) -> None:
        if isinstance(event, h11.Response):
            self.outcome.status = event.status_code
        elif isinstance(event, h11.Data):
            ends = (self.outcome.body[-1:] + event.data).count(b"\n\n")
            self.outcome.events_at += [time.perf_counter()] * ends
            self.outcome.body += event.data
            self.has_begun.set()
        elif isinstance(event, h11.EndOfMessage):
            self.outcome.is_complete = True


def generation(port: int, prompt: str, session: str = "", stream: bool = True, **fields: Any) -> Asking:
    """A request to /generate."""
    return Asking.of_json(port, "/generate", {"prompt": prompt, "stream": stream, **fields}, session)


@asynccontextmanager
async def streams(clients: Sequence[Asking]) -> AsyncIterator[list["asyncio.Task[Outcome]"]]:
    """Streams that have begun; whatever is left of them is left early at the end.

    Raises:
        StreamRefused: one of them has not begun.
    """
    tasks = [asyncio.create_task(client.run()) for client in clients]
    try:
        async with asyncio.timeout(ANSWER_LIMIT):
            for client in clients:
                await client.has_begun.wait()
                if client.outcome.status != HTTPStatus.OK:
                    raise StreamRefused(f"expected a stream, got {client.outcome.status}: {client.outcome.body!r}")
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def health(port: int, session: str = "") -> dict[str, Any]:
    """What /health says; of the replica that a session is with.

    Raises:
        OSError: there was no answer.
    """
    outcome = await Asking(port, "GET", "/health", session=session).run()
    if not outcome.is_complete:
        raise ConnectionError("expected an answer from /health, got none")
    answer: dict[str, Any] = json.loads(outcome.body)
    return answer
