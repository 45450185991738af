"""What Ray Serve costs compared with uvicorn alone, and how it grows with the replicas.

All servers run at the same time and get requests in turn, round by round, so that slow moments affect all of them.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import mean, median

from study.common.client import Target, percentile, whole
from study.scale.client import Asking, Outcome, generation
from study.scale.cluster import Cluster, processor_seconds

ROUNDS = 5
REQUESTS = 60
"""Of each kind, in each round."""
EVENTS = 3000
CLIENTS = 16
PACE_MS = 10
TOKENS = 100
"""Of an answer of the paced engine."""
SLOTS = 16
"""Of each replica (ENGINE_MAX_STREAMS). It makes at most 16 streams of 100 tokens a second."""
CLIENTS_PER_REPLICA = 24
WARM_UP, WINDOW, WINDOWS = 2.0, 3.0, 3
"""Seconds, and how many windows there are: the best one counts, since others use the machine as well."""


@dataclass(frozen=True)
class Server:
    """A server's address, and the processes that every event passes, whose processor time is the cost."""

    port: int
    pids: Sequence[int]

    @classmethod
    def of(cls, ray: Cluster) -> "Server":
        processes = ray.processes()
        return cls(ray.port, [pid for kind in ("replica", "proxy", "HAProxy") for pid in processes[kind]])

    @contextmanager
    def timed(self, times: list[float]) -> Iterator[None]:
        """Add the processor time of a block to `times`."""
        before = sum(map(processor_seconds, self.pids))
        yield
        times.append(sum(map(processor_seconds, self.pids)) - before)


@dataclass
class Costs:
    """The figures of one server in all rounds; times in seconds."""

    health: list[float] = field(default_factory=list)
    generate: list[float] = field(default_factory=list)
    one_client: list[float] = field(default_factory=list)
    many_clients: list[float] = field(default_factory=list)
    of_requests: list[float] = field(default_factory=list)
    """Processor time of each round's requests to /health."""
    of_events: list[float] = field(default_factory=list)
    """Processor time of each round's events for many clients."""

    def row(self) -> list[str]:
        return [
            f"{1e3 * percentile(self.health, 50):.1f} / {1e3 * percentile(self.health, 99):.1f}",
            f"{1e3 * percentile(self.generate, 50):.1f} / {1e3 * percentile(self.generate, 99):.1f}",
            f"{1e3 * mean(self.of_requests) / REQUESTS:.1f}",
            f"{median(self.one_client):,.0f}",
            f"{median(self.many_clients):,.0f}",
            f"{1e6 * mean(self.of_events) / (CLIENTS * EVENTS):.0f}",
        ]


async def costs(servers: Mapping[str, Server]) -> dict[str, Costs]:
    """Measure running servers in turn."""
    found = {name: Costs() for name in servers}
    for number in range(ROUNDS):
        names = list(servers)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            await _round(found[name], servers[name])
    return found


async def _round(cost: Costs, server: Server) -> None:
    port = server.port
    with server.timed(cost.of_requests):
        cost.health += [await _seconds(lambda: Asking(port, "GET", "/health")) for _ in range(REQUESTS)]
    cost.generate += [await _seconds(lambda: generation(port, "hello", stream=False)) for _ in range(REQUESTS)]
    cost.one_client.append(await _events_per_second(port, 1, EVENTS))
    with server.timed(cost.of_events):
        cost.many_clients.append(await _events_per_second(port, CLIENTS, EVENTS))


async def _seconds(ask: Callable[[], Asking]) -> float:
    outcome = await ask().run()
    if outcome.status != 200:
        raise RuntimeError(f"expected a status of 200, got {outcome.status}: {outcome.body[:200]!r}")
    return outcome.ended_at - outcome.asked_at


async def _events_per_second(port: int, clients: int, events: int) -> float:
    target = Target.on_port(port)
    began = time.perf_counter()
    done = await asyncio.gather(*(whole(target, target.body(f"count {events}", events)) for _ in range(clients)))
    seconds = time.perf_counter() - began
    if {events_in(unchunked(b"".join(data for _, data in client.received))) for client in done} != {events}:
        raise RuntimeError("expected every stream to come whole")
    return clients * events / seconds


def unchunked(body: bytes) -> bytes:
    """The content of a body's chunks. A proxy may cut them anywhere, also within an event."""
    pieces = []
    at = 0
    while (end := body.find(b"\r\n", at)) > at:
        length = int(body[at:end], 16)
        pieces.append(body[end + 2 : end + 2 + length])
        at = end + 2 + length + 2
    return b"".join(pieces)


def events_in(stream: bytes) -> int:
    return stream.count(b'data: {"token"')


@dataclass(frozen=True)
class Growth:
    """Events per second of so many replicas of a paced engine."""

    replicas: int
    events_per_second: float

    @property
    def ceiling(self) -> float:
        """What the engines make together if all their slots are always taken."""
        return self.replicas * SLOTS * 1000 / PACE_MS

    def row(self) -> list[str]:
        part = self.events_per_second / self.ceiling
        return [str(self.replicas), f"{self.events_per_second:,.0f}", f"{self.ceiling:,.0f}", f"{part:.2f}"]


async def growth(port: int, replicas: int) -> Growth:
    """Keep more streams open than there are slots, and count the events of each window."""
    outcomes: list[Outcome] = []
    tasks = [asyncio.create_task(_ask_on(port, outcomes)) for _ in range(replicas * CLIENTS_PER_REPLICA)]
    await asyncio.sleep(WARM_UP)
    began = time.perf_counter()
    await asyncio.sleep(WINDOWS * WINDOW)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    windows = Counter(int((at - began) // WINDOW) for outcome in outcomes for at in outcome.events_at[:TOKENS])
    return Growth(replicas, max(windows[number] for number in range(WINDOWS)) / WINDOW)


async def _ask_on(port: int, outcomes: list[Outcome]) -> None:
    """One client: it sends a new request when its answer has ended."""
    while True:
        asking = generation(port, f"pace={PACE_MS}", max_tokens=TOKENS)
        outcomes.append(asking.outcome)
        await asking.run()
