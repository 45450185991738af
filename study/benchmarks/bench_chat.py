"""What a chat stream costs, compared with /generate: `make bench-chat`.

The scripted engine makes tokens at once, so only sending them takes time. Both doors are measured at 1 and 16 clients,
with the endpoints alternating in one run, as ratios of events per second.
"""

import asyncio
import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from study.benchmarks.bench_transport import server_named
from study.common.arguments import argument_parser
from study.common.client import Target, whole
from study.common.launcher import Process, launched

EVENTS = 2_000
STREAMS = 16
ROUNDS = 5
BAR = 0.8
"""Events per second of every other API, where /generate has 1."""
DOORS = ("app", "raw_asgi")
PROMPT = "pace=0"
MESSAGES = [{"role": "user", "content": PROMPT}]


@dataclass(frozen=True, slots=True)
class Asked:
    """The path and the body of a request to one API."""

    path: str
    body: Mapping[str, Any]

    def at(self, target: Target) -> Target:
        return Target(target.at(self.path))


APIS = {
    "generate": Asked("/generate", {"prompt": PROMPT, "max_tokens": EVENTS}),
    "chat": Asked("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": EVENTS}),
    "completions": Asked("/v1/completions", {"prompt": PROMPT, "max_tokens": EVENTS}),
    "responses": Asked("/v1/responses", {"input": PROMPT, "max_output_tokens": EVENTS}),
    "messages": Asked("/v1/messages", {"messages": MESSAGES, "max_tokens": EVENTS}),
}


@dataclass(slots=True)
class Cost:
    """The cost of one API at one door, in all rounds so far."""

    rates: list[float] = field(default_factory=list)
    """Tokens per second, round by round."""
    cpu_seconds: float = 0.0
    """Processor time of the server."""


def main() -> None:
    argument_parser(__doc__).parse_args()
    costs: dict[tuple[str, int, str], Cost] = {}
    with ExitStack() as stack:
        processes = {door: stack.enter_context(launched(server_named(door))) for door in DOORS}
        for process in processes.values():
            process.wait_until_ready()
        for _ in range(ROUNDS):
            for door, process in processes.items():
                for clients in (1, STREAMS):
                    for name, api in APIS.items():
                        measure(costs.setdefault((door, clients, name), Cost()), process, api, clients)
    print(f"\n{EVENTS} scripted tokens to each client; medians of {ROUNDS} alternating rounds; the bar is {BAR}")
    print(f"{'door':<9} {'clients':>8}  {'API':<12} {'tokens/s':>10} {'ratio':>7} {'CPU us/token':>13}")
    for (door, clients, name), cost in costs.items():
        # Round by round, so that a slow moment of the machine falls on both sides.
        plain = costs[door, clients, "generate"].rates
        ratio = statistics.median(ours / theirs for ours, theirs in zip(cost.rates, plain, strict=True))
        rate, cpu = statistics.median(cost.rates), 1e6 * cost.cpu_seconds / (EVENTS * clients * ROUNDS)
        print(f"{door:<9} {clients:>8}  {name:<12} {rate:>10,.0f} {ratio:>7.2f} {cpu:>13.1f}")


def measure(cost: Cost, process: Process, api: Asked, clients: int) -> None:
    before = process.cpu_seconds() or 0.0
    cost.rates.append(asyncio.run(tokens_per_second(api, process.target, clients)))
    cost.cpu_seconds += (process.cpu_seconds() or 0.0) - before


async def tokens_per_second(api: Asked, target: Target, clients: int) -> float:
    """Send the same request `clients` times at once, and read every stream to its end."""
    body = {"stream": True, **api.body}
    began = time.perf_counter()
    exchanges = await asyncio.gather(*(whole(api.at(target), body) for _ in range(clients)))
    seconds = time.perf_counter() - began
    if min(len(exchange.events()) for exchange in exchanges) < EVENTS:
        raise SystemExit(f"error: expected {EVENTS} events for each client from {api.path}")
    return EVENTS * clients / seconds


if __name__ == "__main__":
    main()
