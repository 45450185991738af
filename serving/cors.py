"""CORS by hand: for `raw_asgi.py` what `starlette.middleware.cors` is for `app.py`.

Before a browser sends a page's request to another origin it sends a preflight: OPTIONS, with the method and the headers
of the request to come. The answer says what is allowed. The answer to the request itself names the origin that may read
it. No request is refused here: it is the browser that keeps the answer from the page.

Source: the Fetch standard, section "CORS protocol".
"""

from collections.abc import Collection

from serving.asgi import ASGIApp, Message, Receive, Scope, Send, encoded

SAFE_HEADERS = ("Accept", "Accept-Language", "Content-Language", "Content-Type")
"""A page may send these to any origin."""
VARY = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network"


class Cors:
    """The middleware; its arguments are those of Starlette's."""

    def __init__(
        self,
        app: ASGIApp,
        allow_origins: Collection[str],
        allow_methods: Collection[str],
        allow_headers: Collection[str],
        expose_headers: Collection[str],
        max_age: int,
    ) -> None:
        self.app = app
        self._origins = allow_origins
        self._methods = allow_methods
        self._headers = None if "*" in allow_headers else sorted({*SAFE_HEADERS, *allow_headers})
        """The headers that a page may send; None allows all."""
        self._exposed = ", ".join(expose_headers)
        self._max_age = str(max_age)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            await self._answer_preflight(headers, origin, send)
        elif scope["type"] == "http":
            await self.app(scope, receive, self._sending(origin, send))
        else:
            await self.app(scope, receive, send)

    def _sending(self, origin: str, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *encoded(self._headers_for(origin))]
            await send(message)

        return sending

    def _headers_for(self, origin: str) -> dict[str, str]:
        """The headers of an answer: whether the page may read it, and which of its headers."""
        headers = {"vary": "Origin"}
        if origin:
            headers["access-control-expose-headers"] = self._exposed
        if self._is_allowed(origin):
            headers["access-control-allow-origin"] = "*" if "*" in self._origins else origin
        return headers

    async def _answer_preflight(self, headers: dict[bytes, bytes], origin: str, send: Send) -> None:
        answer = {
            "vary": VARY,
            "access-control-allow-methods": ", ".join(self._methods),
            "access-control-max-age": self._max_age,
        }
        names = headers.get(b"access-control-request-headers")
        if self._headers is not None:
            answer["access-control-allow-headers"] = ", ".join(self._headers)
        elif names is not None:
            answer["access-control-allow-headers"] = names.decode("latin-1")
        if self._is_allowed(origin):
            answer["access-control-allow-origin"] = "*" if "*" in self._origins else origin
        failures = self._failures(headers, origin)
        body = f"Disallowed CORS {', '.join(failures)}".encode() if failures else b"OK"
        answer |= {"content-length": str(len(body)), "content-type": "text/plain; charset=utf-8"}
        await send({"type": "http.response.start", "status": 400 if failures else 200, "headers": encoded(answer)})
        await send({"type": "http.response.body", "body": body})

    def _failures(self, headers: dict[bytes, bytes], origin: str) -> list[str]:
        failures = []
        if not self._is_allowed(origin):
            failures.append("origin")
        if headers[b"access-control-request-method"].decode("latin-1") not in self._methods:
            failures.append("method")
        if not self._may_be_sent(headers.get(b"access-control-request-headers")):
            failures.append("headers")
        if b"access-control-request-private-network" in headers:
            failures.append("private-network")
        return failures

    def _may_be_sent(self, names: bytes | None) -> bool:
        if names is None or self._headers is None:
            return True
        known = {name.lower() for name in self._headers}
        return all(name.strip() in known for name in names.decode("latin-1").lower().split(","))

    def _is_allowed(self, origin: str) -> bool:
        return bool(origin) and ("*" in self._origins or origin in self._origins)
