"""EventSource reconnects whenever a stream ends, so a finished answer is generated again.

A browser's EventSource takes the end of a stream for a lost connection and opens another (HTML standard, 9.2.3). It
stops only when it is closed, or gets a status other than 200; 204 is meant for that. So either the client closes it at
an event that says "done", or the server answers 204 to a client that has had the whole answer, which it knows by the
Last-Event-ID.

The service needs neither. An EventSource can only GET, without a body for a prompt; `/generate` takes only POST, so its
clients use `fetch()`, which asks once. Aborting a `fetch()` is the disconnect of lesson 7.

In the service: contract/generate.py: ENDPOINT; contract/sse.py: frames.
"""

import _start

import anyio
from _show import Client, serving
from starlette.types import Receive, Scope, Send

TOKENS = ("one", "two", "three")


class Service:
    """Generates for every client; with `says_204`, not again for one that has had it all."""

    def __init__(self, says_204: bool = False) -> None:
        self.says_204 = says_204
        self.generations = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        last_event_id = dict(scope["headers"]).get(b"last-event-id")
        if self.says_204 and last_event_id == b"done":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})
            return
        self.generations += 1
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for number, token in enumerate(TOKENS):
            event = f"id: {number}\ndata: {token}\n\n"
            await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"id: done\nevent: done\ndata:\n\n"})


class EventSource:
    """What a browser's does, but for its patience: it gives up after `tries` connections."""

    def __init__(self, port: int, closes_at: str | None = None, tries: int = 4) -> None:
        self.port, self.closes_at, self.tries = port, closes_at, tries
        self.connections = 0
        self.last_event_id = ""

    async def run(self) -> None:
        status = "200"
        while status == "200" and self.connections < self.tries:
            self.connections += 1
            status, stream = await self.connect()
            for line in stream.split("\n"):
                field, _, value = line.partition(": ")
                if field == "id":
                    self.last_event_id = value
                if field == "event" and value == self.closes_at:
                    return

    async def connect(self) -> tuple[str, str]:
        headers = f"Last-Event-ID: {self.last_event_id}\r\n" if self.last_event_id else ""
        client = await Client.ask(self.port, headers=headers)
        stream = await client.body()
        return client.received.split(" ")[1], stream


async def show(name: str, service: Service, closes_at: str | None = None) -> None:
    async with serving(service) as port:
        source = EventSource(port, closes_at)
        await source.run()
    print(f"{name}: connections: {source.connections}; times the answer was generated: {service.generations}")


async def main() -> None:
    await show("left alone", Service())
    await show("closed at the event `done`", Service(), closes_at="done")
    await show("answered with 204", Service(says_204=True))


anyio.run(main)
