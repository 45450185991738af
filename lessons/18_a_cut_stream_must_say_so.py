"""A cut stream must say so: to most clients, half an answer that just ends is a whole one.

Once a status has been sent, no other can follow. A service that fails then can end the body properly, and its client
cannot tell that end from any other: the loop over the events is over, nothing is raised, and half an answer is stored
as the answer. If the connection is cut instead, the client may see an error of the transport, which gives no reason and
often leads to a retry.

A client can recognize an event with the error in it, before the end. The SDKs of OpenAI and Anthropic raise an
exception for it.

In the service: contract/generate.py: GenerateWriter; contract/openai/dialect.py: failure_frame.
"""

import _start

import json
from collections.abc import Awaitable, Callable

import anyio
from _show import Client, serving

Send = Callable[[dict[str, object]], Awaitable[None]]
HALF = [b'data: {"token": "The answer"}\n\n', b'data: {"token": " is"}\n\n']
ERROR = b'data: {"error": {"message": "out of memory"}}\n\ndata: [DONE]\n\n'


async def app(scope: dict[str, object], receive: object, send: Send) -> None:
    """Sends half an answer; the path says how it goes on."""
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for piece in HALF:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    end = ERROR if scope["path"] == "/said" else b""
    await send({"type": "http.response.body", "body": end, "more_body": False})


def read(body: str) -> str:
    """What a client makes of a stream: it raises for an error, and takes any other end for the end."""
    text = ""
    for frame in body.split("\n\n"):
        data = frame.removeprefix("data: ")
        if data in ("", "[DONE]"):
            continue
        event = json.loads(data)
        if "error" in event:
            return f"raises {event['error']['message']!r} after {text!r}"
        text += event["token"]
    return f"stores {text!r} as the answer"


async def main() -> None:
    async with serving(app) as port:
        for path, what in (("/silent", "the stream just ends"), ("/said", "the stream says so")):
            client = await Client.ask(port, path)
            print(f"{what}: the client {read(await client.body())}")


anyio.run(main)
