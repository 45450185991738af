"""The base of services whose engine is elsewhere: what it makes of the watch over that engine."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from backends.relayed import Relay, RelayedService
from config import Config
from interface.engine import ModelInfo, Tokenized
from interface.requests import GenerationRequest, Prompt
from tests.support.asgi_client import until

pytestmark = pytest.mark.anyio


class Watched(RelayedService):
    """A service with nothing in it but its watch."""

    def __init__(self, watch: Callable[["Watched"], Awaitable[None]]) -> None:
        super().__init__(Config())
        self.failures: list[str] = []
        self._watch_over = watch

    async def begin(self) -> None:
        await self.start(lambda events: None, self.failures.append, lambda reason: None)

    @property
    def info(self) -> ModelInfo:
        raise NotImplementedError

    async def _connect(self) -> None: ...

    async def _watch(self) -> None:
        await self._watch_over(self)

    async def _relays(self, requests: Sequence[GenerationRequest]) -> Sequence[Relay]:
        raise NotImplementedError

    def _check_engine(self) -> None: ...

    async def _release(self) -> None: ...

    async def tokenize(self, prompt: Prompt) -> Tokenized:
        raise NotImplementedError

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        raise NotImplementedError


async def test_a_watch_that_dies_is_a_failure_and_its_first_reason_is_the_one_that_counts() -> None:
    async def watch(service: Watched) -> None:
        service._fail("the engine is gone")
        raise OSError("and so is its socket")

    service = Watched(watch)
    await service.begin()
    await until(lambda: service.failures == ["the engine is gone"])
    await service.close()
    assert service.failures == ["the engine is gone"]


async def test_a_watch_that_dies_while_the_service_closes_is_no_failure() -> None:
    async def watch(service: Watched) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("the connection was closed")

    service = Watched(watch)
    await service.begin()
    await asyncio.sleep(0)  # the watch begins
    await service.close()
    assert service.failures == []
