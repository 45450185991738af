"""An engine that is reached over HTTP: the connection to its server, and the handling of outages.

The client is httpx2, which pools connections, supports TLS and proxies, and reads server-sent events as they come. It
is installed with huggingface_hub, which needs it; `requirements/remote.txt` pins it.
"""

import asyncio
import logging
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio

from backends.relayed import EngineLost, RelayedService
from backends.replies import Reply, WrongSettings, parse_reply, refusal, replies
from config import EngineSettings
from interface.errors import EngineUnavailable, LoadError, QueueFull, RequestError

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger("engine")

PROBE_INTERVAL = 2.0
"""Seconds between two probes of the server."""
RETRY_INTERVAL = 0.5
"""Seconds between two probes while it is gone."""
PROBE_LIMIT = 10.0
"""Seconds that the answer to a probe may take."""
TELL_LIMIT = 2.0
"""Seconds for a request whose answer does not matter."""
MAX_FAILED_PROBES = 3
"""Failed probes in a row after which a server that accepts connections counts as lost."""
WAITING_NOTICE = 10.0
"""Seconds between two log lines while the server is not there yet."""
NO_SUCH_PATH = (404, 405)
"""Statuses of a server that is there, but has no path for probes."""
IDLE_LIMIT = 2.0
"""Seconds that an unused connection is kept. Servers close theirs after five, and a request on a connection that is
just being closed gets no answer."""
LARGEST_EVENT = 64 * 2**20
"""Bytes of an event in a stream, which may hold a whole answer with log probabilities."""
LARGEST_ANSWER = 64 * 2**20
"""Bytes of an answer that is not a stream, such as the tokens of a prompt."""
LARGEST_ERROR = 64 * 1024
"""Bytes that are read of an error; what is shown of it is shorter."""
EVENT_STREAM = "text/event-stream"


REFUSALS = (RequestError, QueueFull, EngineUnavailable, EngineLost)
"""The exceptions that a request to the server may raise."""


class Server:
    """The other server: its URL, its key, and a pool of connections."""

    def __init__(self, config: EngineSettings) -> None:
        assert config.backend_url is not None
        self.url = config.backend_url
        self._silence = config.backend_silence
        self._telling: set[asyncio.Task[None]] = set()
        headers = {"authorization": f"Bearer {config.backend_key}"} if config.backend_key else {}
        library = self._httpx2 = _import_httpx2(config.backend)
        limits = library.Limits(
            max_connections=None, max_keepalive_connections=config.max_streams, keepalive_expiry=IDLE_LIMIT
        )
        timeout = library.Timeout(config.backend_silence, connect=PROBE_LIMIT, pool=None)
        try:
            self._client: httpx2.AsyncClient = library.AsyncClient(
                base_url=self.url, headers=headers, timeout=timeout, limits=limits
            )
        except library.InvalidURL as error:
            raise LoadError(f"ENGINE_BACKEND_URL: expected a URL, got {self.url}: {error}") from None

    async def post(self, path: str, body: dict[str, Any]) -> Reply:
        """Send a POST, and return the answer's JSON.

        Raises:
            RequestError, QueueFull, EngineUnavailable: the server has refused.
            EngineLost: there is no answer, or it is not a JSON object.
        """
        with self._reached():
            async with self._client.stream("POST", path, json=body) as response:
                return await self._reply_in(response)

    async def ask(self, path: str) -> Reply:
        """Send a GET, and return the answer's JSON; see `post`."""
        with self._reached():
            async with asyncio.timeout(PROBE_LIMIT), self._client.stream("GET", path) as response:
                return await self._reply_in(response)

    async def problem(self, path: str) -> Exception | None:
        """Send a GET, and return why it has failed; None if it is answered with success, or if there is no such path.

        Raises:
            EngineLost: there is no answer.
        """
        with self._reached():
            async with asyncio.timeout(PROBE_LIMIT), self._client.stream("GET", path) as response:
                if response.is_success or response.status_code in NO_SUCH_PATH:
                    await self._body_of(response, LARGEST_ANSWER)  # the connection can be used again
                    return None
                return await self._refusal_of(response)

    @asynccontextmanager
    async def stream(
        self, path: str, body: dict[str, Any], error_status: int = 500
    ) -> AsyncIterator[AsyncIterator[Reply]]:
        """Send a POST, and yield the events of its answer; leaving the block before their end closes the connection.

        `error_status` is the status of an error in the stream that has none itself.

        Raises:
            RequestError, QueueFull, EngineUnavailable: the server has refused, at once or in the stream.
            EngineLost: there is no answer, or it broke off, or it is not a stream of JSON objects.
        """
        with self._reached():
            async with self._client.stream("POST", path, json=body) as response:
                if not response.is_success:
                    raise await self._refusal_of(response)
                if EVENT_STREAM not in (kind := response.headers.get("content-type", "nothing")):
                    raise EngineLost(f"{self.url} does not stream: expected {EVENT_STREAM}, got {kind}")
                yield replies(
                    aiter(self._httpx2.EventSource(response, max_event_size=LARGEST_EVENT)), path, error_status
                )

    def tell(self, path: str, body: dict[str, Any]) -> None:
        """Send a POST without waiting for the answer; errors are ignored."""
        telling = asyncio.create_task(self._tell(path, body), name=f"tell {path}")
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    async def _tell(self, path: str, body: dict[str, Any]) -> None:
        with suppress(EngineLost), anyio.move_on_after(TELL_LIMIT), self._reached():
            async with self._client.stream("POST", path, json=body) as response:
                await self._body_of(response, LARGEST_ERROR)

    async def close(self) -> None:
        """Close the connections, after the requests of `tell`."""
        await asyncio.gather(*self._telling)
        await self._client.aclose()

    async def _reply_in(self, response: "httpx2.Response") -> Reply:
        """Read an answer's JSON. Raises what the server has refused with, or EngineLost."""
        if not response.is_success:
            raise await self._refusal_of(response)
        path = response.url.path
        if len(body := await self._body_of(response, LARGEST_ANSWER)) > LARGEST_ANSWER:
            raise EngineLost(f"expected at most {LARGEST_ANSWER} bytes in what {path} answers, got more")
        return parse_reply(body.decode(errors="replace"), path)

    async def _refusal_of(self, response: "httpx2.Response") -> Exception:
        """The exception that another server's answer stands for, with the server's message."""
        if response.is_redirect:
            return WrongSettings(
                f"The engine's server is elsewhere (ENGINE_BACKEND_URL): {response.url} leads to "
                f"{response.headers.get('location')}"
            )
        body = await self._body_of(response, LARGEST_ERROR)
        return refusal(response.status_code, body, response.headers.get("retry-after"))

    async def _body_of(self, response: "httpx2.Response", most: int) -> bytes:
        """Read a body, but not much more than `most` bytes of it: its server may be another, or compress it well."""
        body = bytearray()
        async with aclosing(response.aiter_bytes()) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) > most:
                    break
        return bytes(body)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Within this, connection errors are EngineLost."""
        try:
            yield
        except self._httpx2.ConnectError as error:
            raise NoServer(f"no server answers at {self.url}: {error}") from error
        except self._httpx2.ReadTimeout as error:
            message = f"the server at {self.url} has sent nothing for {self._silence:g} s (ENGINE_BACKEND_SILENCE)"
            raise EngineLost(message) from error
        except (self._httpx2.TimeoutException, TimeoutError) as error:
            raise EngineLost(f"the server at {self.url} takes too long to answer") from error
        except self._httpx2.RequestError as error:
            raise EngineLost(f"the connection to {self.url} broke: {error or type(error).__name__}") from error


class NoServer(EngineLost):
    """A connection could not be made."""


class RemoteService(RelayedService):
    """An engine service in front of another server. A subclass implements that server's API."""

    HEALTH: str
    """The path that answers with success when the server can generate."""
    PROBE: str
    """A path that does the same, and is cheap enough to be requested every few seconds."""

    def __init__(self, config: EngineSettings) -> None:
        super().__init__(config)
        self.server = Server(config)
        self._probe_now = asyncio.Event()
        self._failed_probes = 0

    @abstractmethod
    async def _learn(self) -> None:
        """Ask a server that has just become ready for its model and settings. Raises LoadError, EngineLost."""

    async def _connect(self) -> None:
        """Wait for the server without a limit: it may be loading its model, or be started later."""
        notice_at = 0.0
        while (problem := await self._problem(self.HEALTH)) is not None:
            if isinstance(problem, WrongSettings):
                raise LoadError(str(problem))
            if self._loop.time() >= notice_at:
                log.info("Waiting for the engine: %s", problem)
                notice_at = self._loop.time() + WAITING_NOTICE
            await anyio.sleep(RETRY_INTERVAL)
        try:
            await self._learn()
        except REFUSALS as error:
            raise LoadError(f"{self.server.url}: {error}") from error

    async def _watch(self) -> None:
        while True:
            with anyio.move_on_after(PROBE_INTERVAL if self._outage is None else RETRY_INTERVAL):
                await self._probe_now.wait()
            self._probe_now.clear()
            await self._probe()

    async def _probe(self) -> None:
        if self._outage is not None:
            await self._probe_for_another()
            return
        problem = await self._problem(self.PROBE)
        self._failed_probes = 0 if problem is None else self._failed_probes + 1
        if isinstance(problem, NoServer) or self._failed_probes >= MAX_FAILED_PROBES:
            self._lose(str(problem))

    async def _probe_for_another(self) -> None:
        """Check whether there is a server again, which may have been started with other settings."""
        if await self._problem(self.HEALTH) is not None:
            return
        try:
            await self._learn()
        except (LoadError, *REFUSALS) as error:
            if str(error) != self._outage:
                log.error("The engine's server is back, but it cannot be used: %s", error)
                self._lose(str(error))
            return
        self._failed_probes = 0
        self._recover()

    async def _problem(self, path: str) -> Exception | None:
        """Return the error of a probe, or None if the server answers with success."""
        try:
            return await self.server.problem(path)
        except EngineLost as error:
            return error

    def _check_engine(self) -> None:
        self._probe_now.set()

    async def _release(self) -> None:
        await self.server.close()


def _import_httpx2(backend: str) -> Any:
    try:
        import httpx2
    except ImportError:
        raise LoadError(
            f"ENGINE_BACKEND={backend} needs httpx2, which is not installed: pip install -r requirements/remote.txt"
        ) from None
    return httpx2
