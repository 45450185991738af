"""The contrast: the same service by hand on WSGI, where the server pulls and the application has only the return value.

    gunicorn --threads 300 raw_wsgi:app    # more than run and wait together, so that the next one gets its 503
    python raw_wsgi.py --threads --port 8000

WSGI streams: the application returns an iterable, and the server sends each block before it asks for the next. What
it lacks shows next to `raw_asgi.py`, which has the same order and the same names:

    receive    There is none. Nothing tells the application that the client has left; the server finds out when a
               write fails, and then calls `close`. So `listen_for_disconnect` is missing here, and an answer that is
               not streamed is generated to its end even if the client has left.
    await      There is none. Each open stream holds its worker, be it a thread or a process, from the first block to
               the last, also while it waits for a token.
    send       There is none. Headers leave with the first block that is not empty, not before.
    lifespan   There is none. The first request starts the engine, and open streams are not told of the server's end.

Source: PEP 3333.
"""

if __name__ == "__main__":
    import serving.quiet_start  # noqa: F401  no traceback at Ctrl-C during the imports below

import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from http import HTTPStatus
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import contract
from config import VERSION, Config
from serving.sync_driver import Driver, Generation
from serving.transcript.wsgi import with_transcript

Handler = Callable[[Driver, WSGIEnvironment, StartResponse], Iterable[bytes]]


class ClientDisconnect(Exception):
    """The client left before it had sent its whole request."""


def handle(
    endpoint: contract.Endpoint, driver: Driver, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    """Handle any endpoint of the table: look something up, or generate and yield the events as they are pulled."""
    contract.check_head(endpoint, environ.get("HTTP_CONTENT_ENCODING"), environ.get("CONTENT_TYPE"))
    path, query = route_path(environ), environ.get("QUERY_STRING", "").encode("latin-1")
    incoming = contract.Incoming(read_body(environ), path, query, driver.models, driver.fingerprint, driver.kept)
    call = contract.parse(endpoint, incoming)
    del incoming  # the body may be large, and the answer take long
    if isinstance(call, contract.Question):
        return respond(environ, start_response, driver.ask(call.ask))
    generation = driver.begin(call, request_id(environ))
    accepted = contract.Accepted(request_id(environ), generation.prompt_tokens)
    if call.stream:
        return EventStream(generation, call.writer(accepted), environ, start_response)
    with closing(generation):
        return respond(environ, start_response, call.answer(accepted, generation.result()))


def health(driver: Driver, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return respond(environ, start_response, contract.REPORTS[route_path(environ)](driver.vitals()))


def openapi(driver: Driver, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    document = contract.openapi_document(VERSION, environ.get("SCRIPT_NAME", ""), driver.sampling_defaults)
    return respond(environ, start_response, document)


def page(driver: Driver, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return respond(environ, start_response, contract.page(route_path(environ)))


ROUTES: dict[str, dict[str, Handler]] = {
    **{path: {"GET": health, "HEAD": health} for path in contract.REPORTS},
    "/openapi.json": {"GET": openapi, "HEAD": openapi},
    **{path: {"GET": page, "HEAD": page} for path in contract.PAGES},
}


def read_body(environ: WSGIEnvironment) -> bytes:
    """Read the request's body, but not more of it than is allowed; this blocks until it has come."""
    announced = contract.announced_bytes(environ.get("CONTENT_LENGTH"))
    if announced is None and not environ.get("wsgi.input_terminated"):
        # Without a length, only a server that marks the body's end in the stream can be read from: with any other, a
        # read would wait for bytes that never come.
        if "HTTP_TRANSFER_ENCODING" in environ:
            raise contract.length_required()
        announced = 0
    try:
        body: bytes = environ["wsgi.input"].read(contract.MAX_BODY_BYTES + 1 if announced is None else announced)
    except Exception:  # OSError if the client has left, or the server's own for chunks that are none
        raise ClientDisconnect from None
    if len(body) > contract.MAX_BODY_BYTES:
        raise contract.body_too_large()
    if announced is not None and len(body) < announced:
        raise ClientDisconnect
    return body


def stream_events(
    generation: Generation, writer: contract.Writer, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterator[bytes]:
    """Yield a block for each event as it comes; the headers leave with the first."""
    start(start_response, 200, contract.stream_headers(request_id(environ)))
    yield from contract.blocks(writer, generation.events(), generation.heartbeat)


class EventStream:
    """The iterable that the server pulls: each `next` steps the engine until there is an event for this request.

    A class and not a generator, because `close` must end the request even if the server never asked for a block: a
    generator that has not begun has no `finally` to run.
    """

    def __init__(
        self, generation: Generation, writer: contract.Writer, environ: WSGIEnvironment, start_response: StartResponse
    ) -> None:
        self.generation = generation
        self.frames = stream_events(generation, writer, environ, start_response)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self.frames)

    def close(self) -> None:
        """Called by the server when it has done with the iterable: after the last block, or after a failed write."""
        self.generation.close()


def respond(environ: WSGIEnvironment, start_response: StartResponse, answer: contract.Answer) -> Iterable[bytes]:
    """Answer with one block for the whole body."""
    answer = answer.for_request(request_id(environ))
    body = b"" if environ["REQUEST_METHOD"] == "HEAD" else answer.body
    start(start_response, answer.status, answer.headers)
    return [body]


def start(start_response: StartResponse, status: int, headers: dict[str, str]) -> None:
    start_response(f"{status} {HTTPStatus(status).phrase}", [*headers.items()])


def request_id(environ: WSGIEnvironment) -> str:
    """The request's id, the same each time it is asked for."""
    if "request_id" not in environ:
        environ["request_id"] = contract.request_id(environ.get("HTTP_X_REQUEST_ID"))
    return str(environ["request_id"])


def route_path(environ: WSGIEnvironment) -> str:
    """The path below the application; where that is mounted is in SCRIPT_NAME.

    WSGI passes a path's bytes as the characters of latin-1, whatever their encoding is.
    """
    path: str = environ.get("PATH_INFO", "")
    return path.encode("latin-1").decode(errors="replace")


def dialect(environ: WSGIEnvironment) -> contract.Dialect:
    """The shape of the errors that the client expects."""
    return contract.dialect(route_path(environ), environ.get("HTTP_ANTHROPIC_VERSION"))


def find_methods(path: str) -> dict[str, Handler]:
    """The handlers of a path, by method."""
    if path in ROUTES:
        return ROUTES[path]
    return {method: partial(handle, endpoint) for method, endpoint in contract.endpoints_at(path).items()}


def http(driver: Driver, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Call the path's handler, and answer whatever it raises."""
    path = route_path(environ)
    methods = find_methods(path)
    try:
        if not methods:
            raise contract.no_such_path(path)
        if environ["REQUEST_METHOD"] not in methods:
            raise contract.no_such_method(methods)
        return methods[environ["REQUEST_METHOD"]](driver, environ, start_response)
    except ClientDisconnect:
        # There is no reader left, but in WSGI the only way to end a request is to answer it.
        return respond(
            environ, start_response, dialect(environ).refusal(contract.Refusal(400, "The body is not whole"))
        )
    except contract.REFUSALS as error:
        return respond(environ, start_response, dialect(environ).refusal(error))
    except Exception:
        traceback.print_exc(file=environ["wsgi.errors"])
        return respond(environ, start_response, dialect(environ).internal_error())


def create_app(driver: Driver) -> WSGIApplication:
    """The application: a callable that is called once per request, in a thread or process that is held meanwhile."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        driver.start()
        return http(driver, environ, start_response)

    return with_transcript(app, driver.config)


app = create_app(Driver(Config.from_environment_or_exit()))

if __name__ == "__main__":
    from serving.command_line import main_wsgi

    main_wsgi(create_app, __doc__)
