"""Access control: the hosts that a request may name, API keys, and quotas for each client.

`guarded` puts all the middleware around an ASGI application: the gate outermost, then CORS, then `Access`.
"""

import hashlib
import hmac
import ipaddress
import logging
import re
from collections.abc import Callable
from functools import lru_cache

import contract
from config import AccessSettings
from serving.asgi import ASGIApp, Receive, Scope, Send, dialect, header, respond, route_path
from serving.driver import Driver
from serving.exchanges import current_exchange
from serving.gate import Gate
from serving.quotas import Quotas
from serving.transcript.asgi import with_transcript

log = logging.getLogger("engine")

OPEN_PATHS = frozenset(("/health", "/live", *contract.PAGES))
"""Paths that need no key: probes have none, and a browser sends none when it opens a page."""
KEY_HEADERS = (b"x-api-key", b"api-key")
"""Where keys may be other than in Authorization: Anthropic's clients use the first, those of Azure the second."""
EXPOSED = ("x-request-id", "request-id", "retry-after")
HOST = re.compile(r"(?:\[(?P<address>[^\[\]]*)\]|(?P<name>[^\[\]:/@]*))(?::\d*)?")
"""An address in brackets or a name, and perhaps a port."""
LOCAL_NAMES = ("localhost", "")


def guarded(app: ASGIApp, driver: Driver, cors: Callable[..., ASGIApp]) -> ASGIApp:
    """Put the middleware that the settings ask for around an application. `cors` is the door's own class for CORS."""
    app = Access(with_transcript(app, driver.config), driver.config)
    if driver.config.allow_origins:
        app = cors(
            app,
            allow_origins=driver.config.allow_origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",),  # clients in browsers send many of their own, others with each version
            expose_headers=EXPOSED,
            max_age=600,
        )
    return Gate(app, driver)


class Access:
    """The middleware: it lets a request pass, or refuses it with 401, 421 or 429."""

    def __init__(self, app: ASGIApp, config: AccessSettings) -> None:
        self.app = app
        self._hosts = {host.lower().removesuffix(".") for host in config.hosts}
        self._digests = [_digest(key) for key in config.api_keys]
        self._quotas = Quotas(config.client_requests, config.client_tokens)
        self._may_warn = not config.api_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = route_path(scope)
        try:
            self._check_hosts(scope)
            client = "" if path in OPEN_PATHS else self._client(scope)
            exchange = current_exchange.get()
            if exchange is not None and self._digests:
                exchange.key = client
            with self._quotas.charged(client, exchange):
                await self.app(scope, receive, send)
        except contract.Refusal as error:
            await respond(scope, send, dialect(scope).refusal(error))

    def _check_hosts(self, scope: Scope) -> None:
        """Refuse a host that is not this server's, so that no web page reaches it by DNS rebinding."""
        for key, value in scope["headers"]:
            if key == b"host" and not self._serves(host := value.decode("latin-1")):
                raise contract.Refusal(
                    421, f"Expected a host that ENGINE_HOSTS names, or an address; got {host[:100]!r}"
                )

    def _serves(self, host: str) -> bool:
        if (found := HOST.fullmatch(host)) is None:
            return False
        if (address := found["address"]) is not None:
            return _is_address(address)
        name = found["name"].lower().removesuffix(".")
        if name in LOCAL_NAMES or name.endswith(".localhost") or _is_address(name):
            return True
        return "*" in self._hosts or name in self._hosts

    def _client(self, scope: Scope) -> str:
        """Return what identifies the client for its quotas: its key, if keys are required, or else where it is.

        Raises:
            Refusal: 401, no key or a wrong one.
        """
        address = str((scope.get("client") or ("",))[0])
        if not self._digests:
            self._warn_of(address)
            return _counted_as(address)
        bearer = (header(scope, b"authorization") or "").partition(" ")
        token = bearer[2].strip() if bearer[0].lower() == "bearer" else ""
        given = (token, *(header(scope, name) for name in KEY_HEADERS))
        digests = [_digest(key) for key in given if key]  # Anthropic's client may send both, a token and a key
        # Every key is compared, each in constant time: how long it takes says nothing about any of them.
        right = [digest for digest in digests if sum(hmac.compare_digest(digest, known) for known in self._digests)]
        if not right:
            came = "a wrong one" if digests else "none"
            message = f"Expected an API key in Authorization: Bearer or X-Api-Key, got {came}"
            raise contract.Refusal(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        return right[0].hex()[:12]

    def _warn_of(self, address: str) -> None:
        if self._may_warn and address and _is_address(address) and not ipaddress.ip_address(address).is_loopback:
            self._may_warn = False
            log.warning("A request has come from another machine, and no key is required. Set ENGINE_API_KEYS.")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _counted_as(address: str) -> str:
    """Return a client's address, or in IPv6 its network: a client may use any of that network's 2**64 addresses.

    Source: RFC 4291, section 2.5.4.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address or "no address"  # over a Unix socket all clients are one, and quotas hold for them together
    if isinstance(found, ipaddress.IPv4Address):
        return address
    if found.ipv4_mapped is not None:  # of an IPv4 client, where a socket takes both kinds
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found), 64), strict=False))


@lru_cache(maxsize=16)  # most requests name the same hosts
def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def warn_if_open(host: str, config: AccessSettings, advice: str = "Set ENGINE_API_KEYS.") -> None:
    """Warn at the start if other machines can reach the server and no key is required."""
    is_local = host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
    if not is_local and not config.api_keys:
        log.warning("Listening on %s without a key: everyone who reaches it may ask. %s", host, advice)
