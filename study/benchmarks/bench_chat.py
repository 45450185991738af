"""What a chat stream costs, compared with /generate: `make bench-chat`.

The scripted engine makes tokens at once, so only their way to the client is left: through both doors, at 1 and 16
clients, the two endpoints alternating in one run and told as ratios of events per second.
"""

import asyncio
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from study.benchmarks.bench_transport import servers
from study.common.client import Target, whole

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
    """One API: where it is asked, and with what."""

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


def main() -> None:
    rates: dict[tuple[str, int, str], list[float]] = {}
    with servers(DOORS) as targets:
        for _ in range(ROUNDS):
            for door, target in targets.items():
                for clients in (1, STREAMS):
                    for name, asked in APIS.items():
                        rate = asyncio.run(tokens_per_second(asked, target, clients))
                        rates.setdefault((door, clients, name), []).append(rate)
    print(f"\n{EVENTS} scripted tokens to each client; medians of {ROUNDS} alternating rounds; the bar is {BAR}")
    print(f"{'door':<9} {'clients':>8}  {'API':<12} {'tokens/s':>10} {'ratio':>7}")
    for (door, clients, name), its_rates in rates.items():
        # Round by round, so that a slow moment of the machine falls on both sides.
        plain = rates[door, clients, "generate"]
        ratio = statistics.median(ours / theirs for ours, theirs in zip(its_rates, plain, strict=True))
        print(f"{door:<9} {clients:>8}  {name:<12} {statistics.median(its_rates):>10,.0f} {ratio:>7.2f}")


async def tokens_per_second(asked: Asked, target: Target, clients: int) -> float:
    """Send the same request `clients` times at once, and read every stream to its end."""
    body = {"stream": True, **asked.body}
    began = time.perf_counter()
    exchanges = await asyncio.gather(*(whole(asked.at(target), body) for _ in range(clients)))
    seconds = time.perf_counter() - began
    if min(len(one.events()) for one in exchanges) < EVENTS:
        raise SystemExit(f"error: expected {EVENTS} events for each client from {asked.path}")
    return EVENTS * clients / seconds


if __name__ == "__main__":
    main()
