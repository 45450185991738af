"""A real router, vllm-router, in front of two of our servers, one behind each door."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from study.common.launcher import Process, free_port, running
from study.scale.client import Asking, Outcome, streams
from study.scale.cluster import BIN
from tests.support.http_client import Connection
from tests.support.serving import wait_until

pytestmark = pytest.mark.anyio
DOORS = ("app", "raw_asgi")
MODEL = "bundled_model"


@dataclass
class Routed:
    """The router's port, and the servers behind it."""

    port: int
    servers: list[Process]

    def made(self) -> list[int]:
        """The number of tokens that each server has made."""
        return [self._health(server)["generated_tokens"] for server in self.servers]

    def running(self) -> int:
        return sum(self._health(server)["running"] for server in self.servers)

    def _health(self, server: Process) -> dict[str, int]:
        with Connection(server.port) as connection:
            health: dict[str, int] = connection.request("GET", "/health").json()
            return health


@contextmanager
def server(door: str) -> Iterator[Process]:
    port = free_port()
    arguments = ["-m", "uvicorn", "--factory", "study.scale.engine:app", "--port", str(port), "--no-access-log"]
    with running(arguments, {"DOOR": door}, end_limit=0) as process:
        process.given_port = port
        yield process


@pytest.fixture
def routed() -> Iterator[Routed]:
    with ExitStack() as stack:
        servers = [stack.enter_context(server(door)) for door in DOORS]
        for process in servers:
            process.wait_until_ready()
        port = free_port()
        arguments = [str(BIN / "vllm-router"), "--host", "127.0.0.1", "--port", str(port), "--policy", "cache_aware"]
        arguments += ["--worker-urls", *[f"http://127.0.0.1:{process.port}" for process in servers]]
        arguments += ["--prometheus-port", str(free_port())]
        arguments += ["--health-check-interval-secs", "1", "--health-failure-threshold", "1"]  # by asking /health
        router = stack.enter_context(running(arguments, end_limit=0, program=str(BIN / "python")))
        router.find("(Starting server on)")
        wait_until(lambda: is_up(port), "the router")
        yield Routed(port, servers)


def is_up(port: int) -> bool:
    try:
        with Connection(port) as connection:
            return connection.request("GET", "/v1/models").status == 200
    except OSError:
        return False


def completion(port: int, prompt: str, max_tokens: int = 16, stream: bool = True) -> Asking:
    body = {"model": MODEL, "prompt": prompt, "max_tokens": max_tokens, "stream": stream}
    return Asking.of_json(port, "/v1/completions", body)


async def test_a_stream_passes_event_by_event(routed: Routed) -> None:
    outcome: Outcome = await completion(routed.port, "drip 60", max_tokens=60).run()
    assert outcome.status == 200
    assert outcome.body.endswith(b"data: [DONE]\n\n")
    assert outcome.events_at[-1] - outcome.events_at[0] > 0.15  # the engine takes 0.3 s for them


async def test_a_client_that_leaves_the_router_leaves_the_engine(routed: Routed) -> None:
    async with streams([completion(routed.port, "pace=10", max_tokens=4000)]):
        assert routed.running() == 1
    wait_until(lambda: routed.running() == 0, "the abort")
    assert sum(routed.made()) < 4000


async def test_prompts_that_begin_alike_come_to_one_server(routed: Routed) -> None:
    for text in ("once upon a time " * 40, "it was a dark and stormy night " * 40):
        before = routed.made()
        for ending in ("one", "two", "three", "four"):
            outcome = await completion(routed.port, text + ending, stream=False).run()
            assert outcome.status == 200
        made = [after - earlier for after, earlier in zip(routed.made(), before, strict=True)]
        assert sorted(made) == [0, 16]  # the answer has four tokens


def test_a_server_whose_health_fails_gets_no_more_requests(routed: Routed) -> None:
    routed.servers[0].popen.kill()
    routed.servers[0].wait()
    wait_until(lambda: asyncio.run(all_answered(routed.port)), "the other server's turn")


async def all_answered(port: int) -> bool:
    """Whether many requests in a row are answered, which begin in different ways."""
    clients = [completion(port, f"{number} times hello", stream=False) for number in range(8)]
    return {outcome.status for outcome in [await client.run() for client in clients]} == {200}
