"""An engine reached over HTTP: the connection to its server, and what is done when that is gone.

The client is httpx2, which pools connections, does TLS and proxies, and reads server-sent events as they come; the
hub's client brings it along. (`requirements/remote.txt` pins it.)
"""

import asyncio
import logging
from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio

from backends.relayed import EngineLost, RelayedService
from backends.replies import Reply, WrongSettings, parse_reply, refusal, replies
from config import Config
from interface.errors import EngineUnavailable, LoadError, QueueFull, RequestError

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger("engine")

PROBE_INTERVAL = 2.0
"""Seconds between two looks at whether the server is there; one that is gone is looked for more often."""
RETRY_INTERVAL = 0.5
PROBE_LIMIT = 10.0
"""Seconds that the answer to such a look may take."""
TELL_LIMIT = 2.0
"""Seconds that the server may take to hear of something that needs no answer."""
PATIENCE = 3
"""Looks in a row that may come to nothing, before a server that takes connections counts as lost."""
WAITING_NOTICE = 10.0
"""Seconds between two lines in the log that say that the server is not there yet."""
NO_SUCH_PATH = (404, 405)
"""A server that answers so is there, and has no word for how it is."""
IDLE_LIMIT = 2.0
"""Seconds that an unused connection is kept. Servers close theirs after five, and one that is being closed takes a
request without an answer."""
EVENT_STREAM = "text/event-stream"


REFUSALS = (RequestError, QueueFull, EngineUnavailable, EngineLost)
"""What a question to the server may end with."""


class Server:
    """The other side: one place, one key, a pool of connections."""

    def __init__(self, config: Config) -> None:
        assert config.backend_url is not None
        self.url = config.backend_url
        self._telling: set[asyncio.Task[None]] = set()
        headers = {"authorization": f"Bearer {config.backend_key}"} if config.backend_key else {}
        library = self._httpx2 = _import_httpx2(config.backend)
        limits = library.Limits(
            max_connections=None, max_keepalive_connections=config.max_streams, keepalive_expiry=IDLE_LIMIT
        )
        timeout = library.Timeout(None, connect=PROBE_LIMIT)  # an answer may be silent for as long as it likes
        try:
            self._client: httpx2.AsyncClient = library.AsyncClient(
                base_url=self.url, headers=headers, timeout=timeout, limits=limits
            )
        except library.InvalidURL as error:
            raise LoadError(f"ENGINE_BACKEND_URL: expected a URL, got {self.url}: {error}") from None

    async def get(self, path: str) -> "httpx2.Response":
        """Raises EngineLost if there is no answer."""
        with self._reached():
            return await self._client.get(path, timeout=PROBE_LIMIT)

    async def post(self, path: str, body: dict[str, Any]) -> Reply:
        """What the server answers, from its JSON.

        Raises:
            RequestError, QueueFull, EngineUnavailable: it has refused.
            EngineLost: there is no answer, or none that is a JSON object.
        """
        with self._reached():
            response = await self._client.post(path, json=body)
        return _reply_in(response)

    async def ask(self, path: str) -> Reply:
        """The same, without a body."""
        return _reply_in(await self.get(path))

    @asynccontextmanager
    async def stream(
        self, path: str, body: dict[str, Any], error_status: int = 500
    ) -> AsyncIterator[AsyncIterator[Reply]]:
        """The events of an answer, while the block lasts; leaving it before their end closes the connection.

        `error_status` is what an error in the stream counts as if it does not say.

        Raises:
            RequestError, QueueFull, EngineUnavailable: the server has refused, at once or in the stream.
            EngineLost: there is no answer, or it broke off, or it is not a stream of JSON objects.
        """
        with self._reached():
            async with self._client.stream("POST", path, json=body) as response:
                if not response.is_success:
                    await response.aread()
                    raise _refusal_of(response)
                if EVENT_STREAM not in (kind := response.headers.get("content-type", "nothing")):
                    raise EngineLost(f"{self.url} does not stream: expected {EVENT_STREAM}, got {kind}")
                yield replies(aiter(self._httpx2.EventSource(response, max_event_size=None)), path, error_status)

    def tell(self, path: str, body: dict[str, Any]) -> None:
        """Send something without waiting for an answer; what goes wrong with it is nothing to anyone."""
        telling = asyncio.create_task(self._tell(path, body), name=f"tell {path}")
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    async def _tell(self, path: str, body: dict[str, Any]) -> None:
        with suppress(EngineLost), anyio.move_on_after(TELL_LIMIT), self._reached():
            await self._client.post(path, json=body)

    async def close(self) -> None:
        """Close the connections, when all that was to be told has been."""
        await asyncio.gather(*self._telling)
        await self._client.aclose()

    def _reached(self) -> "_Reached":
        return _Reached(self._httpx2, self.url)


class _Reached:
    """Turns what goes wrong with a connection into EngineLost."""

    def __init__(self, httpx2: Any, url: str) -> None:
        self._httpx2 = httpx2
        self._url = url

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, self._httpx2.ConnectError):
            raise NoServer(f"no server answers at {self._url}: {error}") from error
        if isinstance(error, self._httpx2.TimeoutException):
            raise EngineLost(f"the server at {self._url} takes too long to answer") from error
        if isinstance(error, self._httpx2.RequestError):
            raise EngineLost(f"the connection to {self._url} broke: {error or type(error).__name__}") from error


class NoServer(EngineLost):
    """Not even a connection."""


class RemoteService(RelayedService):
    """An engine service in front of another server. A subclass speaks that server's language."""

    HEALTH: str
    """What answers with success when the server can generate."""
    PROBE: str
    """The same, but cheap enough to be asked every few seconds."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.server = Server(config)
        self._look_now = asyncio.Event()
        self._vain_looks = 0

    @abstractmethod
    async def _learn(self) -> None:
        """Ask the server what it has; it has just become ready. Raises LoadError, EngineLost."""

    async def _connect(self) -> None:
        """Wait for the server for as long as it takes: it may load its model, or be started later."""
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
                await self._look_now.wait()
            self._look_now.clear()
            await self._look()

    async def _look(self) -> None:
        if self._outage is not None:
            await self._look_for_another()
            return
        problem = await self._problem(self.PROBE)
        self._vain_looks = 0 if problem is None else self._vain_looks + 1
        if isinstance(problem, NoServer) or self._vain_looks >= PATIENCE:
            self._lose(str(problem))

    async def _look_for_another(self) -> None:
        """See whether there is a server again: perhaps one that was started in another way."""
        if await self._problem(self.HEALTH) is not None:
            return
        try:
            await self._learn()
        except (LoadError, *REFUSALS) as error:
            if str(error) != self._outage:
                log.error("The engine's server is back, but it cannot be used: %s", error)
                self._lose(str(error))
            return
        self._vain_looks = 0
        self._recover()

    async def _problem(self, path: str) -> Exception | None:
        """Why the server does not answer well, if it does not."""
        try:
            response = await self.server.get(path)
        except EngineLost as error:
            return error
        is_well = response.is_success or response.status_code in NO_SUCH_PATH
        return None if is_well else _refusal_of(response)

    def _on_lost(self, reason: str) -> None:
        self._look_now.set()

    async def _release(self) -> None:
        await self.server.close()


def _reply_in(response: "httpx2.Response") -> Reply:
    if not response.is_success:
        raise _refusal_of(response)
    return parse_reply(response.text, response.url.path)


def _refusal_of(response: "httpx2.Response") -> Exception:
    """The error that another server's answer means, in its own words."""
    if response.is_redirect:
        return WrongSettings(
            f"The engine's server is elsewhere (ENGINE_BACKEND_URL): {response.url} leads to "
            f"{response.headers.get('location')}"
        )
    return refusal(response.status_code, response.content)


def _import_httpx2(backend: str) -> Any:
    try:
        import httpx2
    except ImportError:
        raise LoadError(
            f"ENGINE_BACKEND={backend} needs httpx2, which is not installed: pip install -r requirements/remote.txt"
        ) from None
    return httpx2
