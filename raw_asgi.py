"""The service by hand: an ASGI application with nothing between it and the server.

    uvicorn raw_asgi:app
    python raw_asgi.py --port 8000

Every message of the protocol is written out here. `app.py` is the same service on Starlette, in the same order and with
the same names. What is not protocol lives in `contract` (requests and answers) and `serving` (the driver).

Source: the ASGI specification, versions 2.3 and 2.4 of its HTTP part, and lifespan 2.0.
"""

if __name__ == "__main__":
    import serving.quiet_start  # noqa: F401  no traceback at Ctrl-C during the imports below

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from functools import partial
from typing import Any

import contract
from config import VERSION, Config
from serving.access import guarded
from serving.cors import Cors
from serving.driver import Driver
from serving.generation import Generation

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Handler = Callable[[Driver, Scope, Receive, Send], Awaitable[None]]


class ClientDisconnect(Exception):
    """The client left before it had sent its whole request."""


async def handle(endpoint: contract.Endpoint, driver: Driver, scope: Scope, receive: Receive, send: Send) -> None:
    """Handle any endpoint of the table: look something up, or generate and send the events as they come or at once."""
    contract.check_head(endpoint, header(scope, b"content-encoding"), header(scope, b"content-type"))
    path, query = route_path(scope), scope.get("query_string", b"")
    incoming = contract.Incoming(await read_body(receive), path, query, driver.models, driver.fingerprint, driver.kept)
    call = await driver.parse(partial(contract.parse, endpoint, incoming), len(incoming.body))
    del incoming  # the body may be large, and the answer take long
    if isinstance(call, contract.Question):
        await respond(scope, send, await driver.ask(call.ask))
        return
    generation = await driver.begin(call, request_id(scope))
    accepted = contract.Accepted(request_id(scope), generation.prompt_tokens)
    disconnected = partial(listen_for_disconnect, receive)
    if call.stream:
        await generation.run(partial(stream_events, generation, call.writer(accepted), scope, send), disconnected)
        return
    events = await generation.run(generation.result, disconnected)
    if events is not None:
        await respond(scope, send, await driver.answer(partial(call.answer, accepted), events))


async def health(driver: Driver, scope: Scope, receive: Receive, send: Send) -> None:
    await respond(scope, send, contract.REPORTS[route_path(scope)](driver.vitals()))


async def openapi(driver: Driver, scope: Scope, receive: Receive, send: Send) -> None:
    document = contract.openapi_document(VERSION, scope.get("root_path", ""), driver.sampling_defaults)
    await respond(scope, send, document)


async def page(driver: Driver, scope: Scope, receive: Receive, send: Send) -> None:
    await respond(scope, send, contract.page(route_path(scope)))


ROUTES: dict[str, dict[str, Handler]] = {
    **{path: {"GET": health, "HEAD": health} for path in contract.REPORTS},
    "/openapi.json": {"GET": openapi, "HEAD": openapi},
    **{path: {"GET": page, "HEAD": page} for path in contract.PAGES},
}


async def read_body(receive: Receive) -> bytes:
    """Read the request's body, up to the limit; it comes in as many messages as the server likes."""
    body = bytearray()
    more_body = True
    while more_body:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > contract.MAX_BODY_BYTES:
            raise contract.body_too_large()
        more_body = message.get("more_body", False)
    return bytes(body)


async def listen_for_disconnect(receive: Receive) -> None:
    """Return when the client has left. Nothing else may call `receive` meanwhile: a message has one reader."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def stream_events(generation: Generation, writer: contract.Writer, scope: Scope, send: Send) -> None:
    """Send the headers at once, then a message for each event as it comes, and an empty one to end."""
    # A client that has left shows itself here or in listen_for_disconnect: servers of spec 2.4 may raise
    # OSError from send, others drop the message silently.
    with suppress(OSError):
        await start(scope, send, 200, contract.stream_headers(request_id(scope)))
        async for frame in contract.frames(writer, generation.events(), generation.heartbeat):
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def respond(scope: Scope, send: Send, answer: contract.Answer) -> None:
    """Send one message for the headers and one for the whole body. It is not an error if the client has left."""
    answer = answer.for_request(request_id(scope))
    body = b"" if scope["method"] == "HEAD" else answer.body
    with suppress(OSError):
        await start(scope, send, answer.status, answer.headers)
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def start(scope: Scope, send: Send, status: int, headers: dict[str, str]) -> None:
    scope["response_started"] = True
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})


def header(scope: Scope, name: bytes) -> str | None:
    """The value of a request's header; the server has put the names in lower case."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def request_id(scope: Scope) -> str:
    """The request's id, which the gate (`serving.gate`) has noted: the client's own, or a new one."""
    return str(scope["request_id"])


def route_path(scope: Scope) -> str:
    """The path below `root_path`, under which a proxy may have mounted the application."""
    return contract.route_path(scope["path"], scope.get("root_path", ""))


def dialect(scope: Scope) -> contract.Dialect:
    """The shape of the errors that the client expects."""
    return contract.dialect(route_path(scope), header(scope, b"anthropic-version"))


def find_methods(path: str) -> dict[str, Handler]:
    """The handlers of a path, by method."""
    if path in ROUTES:
        return ROUTES[path]
    return {method: partial(handle, endpoint) for method, endpoint in contract.endpoints_at(path).items()}


async def http(driver: Driver, scope: Scope, receive: Receive, send: Send) -> None:
    """Call the path's handler, and answer whatever it raises."""
    path = route_path(scope)
    methods = find_methods(path)
    try:
        if not methods:
            raise contract.no_such_path(path)
        if scope["method"] not in methods:
            raise contract.no_such_method(methods)
        await methods[scope["method"]](driver, scope, receive, send)
    except ClientDisconnect:
        pass
    except contract.REFUSALS as error:
        await respond(scope, send, dialect(scope).refusal(error))
    except Exception:
        if "response_started" not in scope:
            await respond(scope, send, dialect(scope).internal_error())
        raise  # for the server's log


async def lifespan(driver: Driver, receive: Receive, send: Send) -> None:
    """Run the driver from the server's start to its end."""
    await receive()  # lifespan.startup
    started = False
    try:
        async with driver.running():
            await send({"type": "lifespan.startup.complete"})
            started = True
            await receive()  # lifespan.shutdown
    except BaseException as error:
        phase = "shutdown" if started else "startup"
        await send({"type": f"lifespan.{phase}.failed", "message": f"{type(error).__name__}: {error}"})
        raise
    await send({"type": "lifespan.shutdown.complete"})


def create_app(driver: Driver) -> ASGIApp:
    """The application: a callable that is awaited once per connection. What guards it has refused WebSockets."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(driver, receive, send)
        elif scope["type"] == "http":
            await http(driver, scope, receive, send)
        else:
            raise ValueError(f"Expected a scope of type lifespan or http, got {scope['type']!r}")

    return guarded(app, driver, Cors)


app = create_app(Driver(Config.from_environment_or_exit()))

if __name__ == "__main__":
    from serving.command_line import main

    main(create_app, __doc__)
