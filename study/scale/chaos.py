"""Kills each kind of process with `kill -9`: what clients saw, how long it took, and what was left over.

for result in chaos(ha_proxy=False): ...
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from study.scale.client import generation, health
from study.scale.cluster import Cluster, cluster

REPLICAS = 2
STREAMS = (0, 32)
OF_SERVE = {False: ("replica", "proxy", "controller"), True: ("replica", "HAProxy", "HAProxy's manager", "controller")}
SETTINGS = {"ENGINE_MAX_STREAMS": "32"}
"""As many slots as streams, so that none waits for a slot on any replica."""
OF_THE_NODE = ("raylet", "GCS")
"""Their death ends the cluster, so each is killed in a cluster of its own."""
LIMIT = 60.0
"""Seconds within which a cluster should be as before."""
TOKENS = 300
"""Of a stream at 50 tokens a second: it still runs when another process has taken the place of the killed one."""


@dataclass(frozen=True)
class Result:
    """The effects of one kill."""

    ha_proxy: bool
    killed: str
    streams: int
    outcomes: Counter[str]
    next_answer_after: float | None
    whole_after: float | None
    left: dict[str, int]

    def row(self) -> list[str]:
        seen = ", ".join(f"{count} {kind}" for kind, count in self.outcomes.most_common())
        left = ", ".join(f"{count} {what}" for what, count in self.left.items() if count > 0)
        proxy = "HAProxy" if self.ha_proxy else "Ray's"
        return [
            proxy,
            self.killed,
            seen or "no streams",
            _after(self.next_answer_after),
            _after(self.whole_after),
            left or "–",
        ]


@dataclass(frozen=True)
class Belongings:
    """What an idle cluster holds."""

    processes: Counter[str]
    shared_memory: frozenset[str]
    """Of Ray's object store; other programs on the machine have theirs."""

    @classmethod
    def of(cls, ray: Cluster) -> "Belongings":
        processes = Counter({kind: len(pids) for kind, pids in ray.processes().items()})
        return cls(processes, frozenset(path.name for path in Path("/dev/shm").glob("plasma*")))


def chaos(ha_proxy: bool) -> Iterator[Result]:
    """Kill one process after another of a cluster, and those that end it in clusters of their own."""
    with cluster(ha_proxy, SETTINGS) as ray:
        ray.deploy("app", REPLICAS)
        for kind in OF_SERVE[ha_proxy]:
            for streams in STREAMS:
                yield asyncio.run(killed(ray, kind, streams, ha_proxy))
    for kind in () if ha_proxy else OF_THE_NODE:
        for streams in STREAMS:
            with cluster(ha_proxy, SETTINGS) as ray:
                ray.deploy("app", REPLICAS)
                yield asyncio.run(killed(ray, kind, streams, ha_proxy))


async def killed(ray: Cluster, kind: str, streams: int, ha_proxy: bool) -> Result:
    """Kill one process of a kind while so many streams run."""
    before = Belongings.of(ray)
    clients = [generation(ray.port, "pace=20", f"s{number}", max_tokens=TOKENS) for number in range(streams)]
    tasks = [asyncio.create_task(client.run()) for client in clients]
    async with asyncio.timeout(LIMIT):
        for client in clients:
            await client.has_begun.wait()
    pid = ray.kill(kind)
    began = time.monotonic()

    async def is_answered() -> bool:
        return (await generation(ray.port, "hello", f"p{time.monotonic()}").run()).kind == "finished"

    async def is_whole() -> bool:
        now = Belongings.of(ray).processes
        return pid not in ray.processes()[kind] and all(
            now[part] >= before.processes[part] for part in (kind, "replica")
        )

    answered = await _within(LIMIT, is_answered, began)
    whole = await _within(LIMIT, is_whole, began) if answered is not None else None
    outcomes = Counter([outcome.kind for outcome in await asyncio.gather(*tasks)])
    if kind in OF_THE_NODE:
        before = Belongings(Counter(), before.shared_memory)  # no process should run any more
    return Result(ha_proxy, kind, streams, outcomes, answered, whole, await left_over(ray, before))


async def left_over(ray: Cluster, before: Belongings) -> dict[str, int]:
    """Processes, sequences, connections and files that remain after the streams have ended."""
    await asyncio.sleep(2)
    now = Belongings.of(ray)
    sequences = 0
    with suppress(OSError, ValueError):
        sequences = max([(await health(ray.port, f"h{number}"))["running"] for number in range(16)])
    return {
        "processes": sum((now.processes - before.processes).values()),
        "sequences": sequences,
        "connections": connections(ray.port),
        "files of shared memory": len(now.shared_memory - before.shared_memory),
    }


def connections(port: int) -> int:
    """Connections of clients that a proxy still holds."""
    held = ("01", "08")  # established, and closed by the client alone
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(fields[1].partition(":")[2], 16) == port and fields[3] in held for fields in lines)


async def _within(limit: float, condition: Callable[[], Awaitable[bool]], began: float) -> float | None:
    """The seconds since `began` after which a condition holds; None if it takes longer than the limit."""
    while time.monotonic() - began < limit:
        if await condition():
            return time.monotonic() - began
        await asyncio.sleep(0.1)
    return None


def _after(seconds: float | None) -> str:
    return f"not in {LIMIT:.0f} s" if seconds is None else f"{seconds:.1f} s"
