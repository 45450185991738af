"""Quotas for each client: requests at once, and tokens per minute. Both are off unless they are set."""

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import contract
from serving.exchanges import Exchange

MINUTE = 60.0


class Quotas:
    """Counts per client. Tokens fill up again evenly; a request is refused only while a client is in debt."""

    def __init__(self, requests: int | None, tokens: int | None) -> None:
        self._requests = requests
        self._tokens = tokens
        self._open: dict[str, int] = defaultdict(int)
        self._paid_until: dict[str, float] = {}
        """When each client will have paid for the tokens that it has had, at its rate."""

    @contextmanager
    def charged(self, client: str, exchange: Exchange | None) -> Iterator[None]:
        """Count a request, and at its end its tokens. "" is a client that is not counted.

        One that goes on without its client ends with its generation.

        Raises:
            Refusal: 429, with the seconds after which to come back.
        """
        if not client or (self._requests is None and self._tokens is None):
            yield
            return
        self._check(client)
        self._open[client] += 1
        try:
            yield
        finally:
            if exchange is None or exchange.goes_on_until is None:
                self._end(client, exchange)
            else:
                exchange.goes_on_until.add_done_callback(lambda _: self._end(client, exchange))

    def _end(self, client: str, exchange: Exchange | None) -> None:
        self._open[client] -= 1
        if not self._open[client]:
            del self._open[client]
        if exchange is not None and exchange.log is not None:
            self._charge(client, exchange.log.tokens)

    def _check(self, client: str) -> None:
        if self._requests is not None and self._open.get(client, 0) >= self._requests:
            raise _too_many(f"Expected at most {self._requests} requests at once from one client, got one more", 1.0)
        # A minute's tokens may be had at once, so the debt begins a minute from now.
        debt = self._paid_until.get(client, 0.0) - time.monotonic() - MINUTE
        if debt > 0:
            raise _too_many(f"Expected at most {self._tokens} tokens per minute from one client, got more", debt)

    def _charge(self, client: str, tokens: int) -> None:
        if self._tokens is not None:
            now = time.monotonic()
            paid = max(now, self._paid_until.get(client, now))
            self._paid_until[client] = paid + tokens * MINUTE / self._tokens
            self._paid_until = {name: until for name, until in self._paid_until.items() if until > now}


def _too_many(message: str, seconds: float) -> contract.Refusal:
    return contract.Refusal(429, message, code="rate_limit_exceeded", headers={"retry-after": str(math.ceil(seconds))})
