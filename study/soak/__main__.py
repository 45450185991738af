"""`python -m study.soak [--door raw_asgi] [--seconds 600] [--clients 48]`: the soak and its report."""

import argparse
import asyncio
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from study.common.client import ask_health
from study.common.launcher import Process, free_port, running
from study.soak.clients import Tally, behave

SETTINGS = {
    "ENGINE_MAX_STREAMS": "4",
    "ENGINE_MAX_WAITING": "12",
    "ENGINE_BODY_LIMIT": "10",
    "ENGINE_STALL": "5",
}
"""Little room, so that the clients ask for more than there is."""
SETTLE = 10.0
"""Seconds after the last client within which everything must be as before."""


@dataclass
class Watch:
    """What the server's process looked like, second by second."""

    memory: list[int] = field(default_factory=list)
    health: list[float] = field(default_factory=list)

    async def look(self, process: Process, until: float) -> None:
        while time.monotonic() < until:
            began = time.monotonic()
            await ask_health(process.target)
            self.health.append(time.monotonic() - began)
            self.memory.append(process.memory)
            await asyncio.sleep(0.1)

    @property
    def growth(self) -> float:
        """Of the memory in the second half: its last quarter's mean over the quarter before."""
        quarter = max(1, len(self.memory) // 4)
        return mean(self.memory[-quarter:]) / mean(self.memory[-2 * quarter : -quarter]) - 1

    @property
    def health_p99(self) -> float:
        return sorted(self.health)[math.ceil(0.99 * len(self.health)) - 1]


def files_of(process: Process) -> int:
    return len(os.listdir(Path("/proc", str(process.popen.pid), "fd")))


async def soak(process: Process, seconds: float, clients: int) -> tuple[Tally, Watch]:
    tally, watch = Tally(), Watch()
    until = time.monotonic() + seconds

    async def go_on() -> None:
        while time.monotonic() < until:
            await behave(process.port, tally)

    await asyncio.gather(watch.look(process, until), *[go_on() for _ in range(clients)])
    return tally, watch


async def settled(process: Process, files_before: int) -> tuple[int, int, int]:
    """Wait until nothing is left; return the sequences, the files more than before, and the tokens made."""
    give_up_at = time.monotonic() + SETTLE
    while True:
        health = await ask_health(process.target)
        left, files = health.running, files_of(process) - files_before
        if (left == 0 and files <= 0) or time.monotonic() > give_up_at:
            return left, files, health.generated_tokens
        await asyncio.sleep(0.2)


def report(door: str, seconds: float, tally: Tally, watch: Watch, left: tuple[int, int, int]) -> tuple[str, bool]:
    """The report, and whether everything held."""
    sequences, files, made = left
    held = {
        "no sequence left in a slot": sequences == 0,
        "no file left open": files <= 0,
        "every accepted stream has a terminal event": not tally.unended,
        "every 503 has Retry-After": tally.without_retry_after == 0,
        "memory of the second half flat within 2% (from 5 minutes on)": seconds < 300 or abs(watch.growth) < 0.02,
    }
    answers = ", ".join(f"{status}: {count}" for status, count in sorted(tally.statuses.items()))
    lines = [
        f"# Soak of {door}.py: {seconds:.0f} s, {sum(tally.statuses.values())} answers",
        f"answers by status      {answers}",
        f"/health                p99 {1e3 * watch.health_p99:.1f} ms over {len(watch.health)} questions",
        f"memory                 {watch.memory[-1] / 2**20:.0f} MiB, second half {100 * watch.growth:+.2f}%",
        f"tokens                 {made} made; {tally.tokens_received} of them told apart by clients of /generate",
        *(f"{'held  ' if good else 'BROKEN'}  {what}" for what, good in held.items()),
        *tally.unended[:10],
    ]
    return "\n".join(lines), all(held.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--door", default="app")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=48)
    options = parser.parse_args()
    port = free_port()
    arguments = ["-m", "uvicorn", "--factory", "study.soak.server:flawed_app", "--port", str(port), "--no-access-log"]
    with running(arguments, SETTINGS | {"DOOR": options.door}) as process:
        process.given_port = port
        process.wait_until_ready()
        files_before = files_of(process)
        tally, watch = asyncio.run(soak(process, options.seconds, options.clients))
        left = asyncio.run(settled(process, files_before))
    text, held = report(options.door, options.seconds, tally, watch, left)
    print(text)
    raise SystemExit(not held)


if __name__ == "__main__":
    main()
