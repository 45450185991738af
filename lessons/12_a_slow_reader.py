"""send() waits for a slow reader, but only after megabytes; and then it waits for ever.

Between `send` and the reader lie asyncio's buffer (64 KiB) and the kernel's two, which may hold megabytes together. An
answer of 1,000 tokens fits into them, so it can be sent to a client that reads nothing. Only long after that does
`send` wait. This is back-pressure, and it works. But the wait has no limit: a client that stops reading and does not
leave keeps its stream, and whatever belongs to it.

So a stream needs a time limit of its own. The service sleeps until `stall` seconds after the stream last took an event,
and then checks whether it has taken another one since. Setting a timer for each token would cost more.

In the service: serving/generation.py: Generation._stall; config.py: ClientSettings.
"""

import _start

import math
import socket

import anyio
import anyio.lowlevel
from _show import PATIENCE, serving
from starlette.types import Receive, Scope, Send

EVENT = b'data: {"token": " word", "token_id": 1234, "step_ms": 12.345}\n\n'
ANSWER = 1000


class Stream:
    """So many events, one after another; given up when one is not taken for `stall` seconds."""

    def __init__(self, events: float, stall: float = math.inf) -> None:
        self.events, self.stall = events, stall
        self.sent = 0
        self.ended = anyio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while self.sent < self.events:
            with anyio.move_on_after(self.stall) as patience:
                await send({"type": "http.response.body", "body": EVENT, "more_body": True})
            if patience.cancelled_caught:
                break
            self.sent += 1
            if self.sent % 100 == 0:
                await anyio.lowlevel.checkpoint()
        self.ended.set()

    async def to_a_client_that_reads_nothing(self) -> str:
        """What comes of it, when it has ended or has stood still for a while."""
        async with serving(self) as port:
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                before = -1
                while before != self.sent and not self.ended.is_set():
                    before = self.sent
                    with anyio.move_on_after(PATIENCE):
                        await self.ended.wait()
                whole = self.sent == self.events
                self.events = 0  # the lesson ends it
            return "all sent" if whole else "given up" if self.ended.is_set() else "send() waits"


async def main() -> None:
    answer = Stream(events=ANSWER)
    print(f"{ANSWER} events to a client that reads nothing: {await answer.to_a_client_that_reads_nothing()}")

    endless = Stream(events=math.inf)
    print(f"events without end: {await endless.to_a_client_that_reads_nothing()}")
    print(f"    after more than {10 * ANSWER} of them: {endless.sent > 10 * ANSWER}")
    print(f"    here: after {endless.sent}, {endless.sent * len(EVENT) / 1e6:.1f} MB")

    bounded = Stream(events=math.inf, stall=PATIENCE / 4)
    print(f"the same, with a bound on the wait: {await bounded.to_a_client_that_reads_nothing()}")


anyio.run(main)
