"""The service on Starlette.

    uvicorn app:app
    python app.py --port 8000

Starlette speaks the protocol; what is left here is the service. `raw_asgi.py` is the same service by hand, in the same
order and with the same names. What is not protocol lives in `contract` (requests and answers) and `serving` (the
driver).
"""

if __name__ == "__main__":
    import serving.quiet_start  # noqa: F401  no traceback at Ctrl-C during the imports below

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

import contract
from config import VERSION, Config
from serving.access import guarded
from serving.driver import Driver
from serving.generation import Generation


async def handle(endpoint: contract.Endpoint, request: Request) -> Response:
    """Handle any endpoint of the table: look something up, or generate and send the events as they come or at once."""
    driver = driver_of(request)
    contract.check_head(endpoint, request.headers.get("content-encoding"), request.headers.get("content-type"))
    path, query = route_path(request), request.scope["query_string"]
    incoming = contract.Incoming(await read_body(request), path, query, driver.models, driver.fingerprint, driver.kept)
    call = await driver.parse(partial(contract.parse, endpoint, incoming), len(incoming.body))
    del incoming  # the body may be large, and the answer take long
    if isinstance(call, contract.Question):
        return respond(request, await driver.ask(call.ask))
    generation = await driver.begin(call, request_id(request))
    accepted = contract.Accepted(request_id(request), generation.prompt_tokens)
    disconnected = partial(listen_for_disconnect, request)
    if call.stream:
        return EventStream(request, generation, call.writer(accepted), disconnected)
    events = await generation.run(generation.result, disconnected)
    if events is None:
        return NoResponse()
    return respond(request, await driver.answer(partial(call.answer, accepted), events))


async def health(request: Request) -> Response:
    report = contract.REPORTS[request.scope["route"].path]
    return respond(request, report(driver_of(request).vitals()))


async def openapi(request: Request) -> Response:
    root_path, defaults = request.scope.get("root_path", ""), driver_of(request).sampling_defaults
    return respond(request, contract.openapi_document(VERSION, root_path, defaults))


async def page(request: Request) -> Response:
    return respond(request, contract.page(request.scope["route"].path))


ROUTES = [
    *[Route(endpoint.path, partial(handle, endpoint), methods=[endpoint.method]) for endpoint in contract.ENDPOINTS],
    *[Route(path, health) for path in contract.REPORTS],
    Route("/openapi.json", openapi),
    *[Route(path, page) for path in contract.PAGES],
]


async def read_body(request: Request) -> bytes:
    """Read the request's body, up to the limit."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > contract.MAX_BODY_BYTES:
            raise contract.body_too_large()
    return bytes(body)


async def listen_for_disconnect(request: Request) -> None:
    """Return when the client has left. Starlette's own way polls, so this asks the protocol."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Send the headers at once, then each event as it comes."""

    def __init__(
        self,
        request: Request,
        generation: Generation,
        writer: contract.Writer,
        disconnected: Callable[[], Awaitable[None]],
    ) -> None:
        headers = contract.stream_headers(request_id(request))
        super().__init__(contract.frames(writer, generation.events(), generation.heartbeat), 200, headers)
        self.generation = generation
        self.disconnected = disconnected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Starlette's own way listens for the disconnect only below spec 2.4; from there on it waits for OSError from
        # send. But a stream that is silent in its prefill sends nothing, so we always listen.
        await self.generation.run(partial(self.stream_events, send), self.disconnected)

    async def stream_events(self, send: Send) -> None:
        with suppress(OSError):
            await self.stream_response(send)


class WholeResponse(Response):
    """An answer in one piece. It is not an error if the client has left."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(OSError):
            await super().__call__(scope, receive, send)


class NoResponse(Response):
    """Send nothing: the client has left."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pass


def respond(request: Request, answer: contract.Answer) -> Response:
    answer = answer.for_request(request_id(request))
    body = b"" if request.method == "HEAD" else answer.body
    return WholeResponse(body, answer.status, answer.headers)


def request_id(request: Request) -> str:
    """The request's id, which the gate (`serving.gate`) has noted: the client's own, or a new one."""
    return str(request.scope["request_id"])


def route_path(request: Request) -> str:
    """The path below `root_path`, under which a proxy may have mounted the application."""
    return contract.route_path(request.scope["path"], request.scope.get("root_path", ""))


def dialect(request: Request) -> contract.Dialect:
    """The shape of the errors that the client expects."""
    return contract.dialect(route_path(request), request.headers.get("anthropic-version"))


def driver_of(request: Request) -> Driver:
    driver: Driver = request.app.state.driver
    return driver


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer what Starlette's router raises: no such path, or no such method on it."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        # Starlette names the methods of one route, but a path may have several.
        allowed = contract.endpoints_at(route_path(request)) or (error.headers or {})["Allow"].split(", ")
        return await on_refusal(request, contract.no_such_method(allowed))
    return await on_refusal(request, contract.no_such_path(route_path(request)))


async def on_client_disconnect(request: Request, error: Exception) -> Response:
    return NoResponse()


async def on_refusal(request: Request, error: Exception) -> Response:
    return respond(request, dialect(request).refusal(error))


async def on_error(request: Request, error: Exception) -> Response:
    return respond(request, dialect(request).internal_error())


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Run the driver from the server's start to its end."""
    async with app.state.driver.running():
        yield


def create_app(driver: Driver) -> ASGIApp:
    """The application: routes, exception handlers, and the driver that all handlers share."""
    app = Starlette(
        routes=ROUTES,
        lifespan=lifespan,
        exception_handlers={
            HTTPException: on_http_exception,
            ClientDisconnect: on_client_disconnect,
            **dict.fromkeys(contract.REFUSALS, on_refusal),
            Exception: on_error,
        },
    )
    app.router.redirect_slashes = False
    app.state.driver = driver
    return guarded(app, driver, CORSMiddleware)


app = create_app(Driver(Config.from_environment_or_exit()))

if __name__ == "__main__":
    from serving.command_line import main

    main(create_app, __doc__)
