"""Measures what sending a token to its client costs: `make bench-transport`.

Three measurements, each with both sides in alternating rounds of one run, reported as ratios:

1. Transport: 2,000 scripted events to 1 and to 16 clients through FastAPI with an executor hop per token (the
   article's server, corrected so that it ends), through `app.py` and through `raw_asgi.py`.
2. The driver: the bundled model at 16 streams with a hop to the worker thread per step, and with a worker that stays.
3. `/health` while 16 streams of the bundled model run.
"""

import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from study.common.arguments import argument_parser
from study.common.client import Pulses, Target, percentile, whole
from study.common.launcher import Command, launched

EVENTS = 2_000
STORY = ("Tell me a story.", 128)
STREAMS = 16
ROUNDS = 5
HEALTH_EVERY = 0.01
BARS = {("app", 1): 1.0, ("raw_asgi", 1): 1.0, ("app", STREAMS): 3.0, ("raw_asgi", STREAMS): 4.0}


def main() -> None:
    argument_parser(__doc__).parse_args()
    compare_transports()
    compare_drivers()


def compare_transports() -> None:
    names = ("article", "app", "raw_asgi")
    rates: dict[tuple[str, int], list[float]] = {}
    with servers(names) as targets:
        for _ in range(ROUNDS):
            for clients in (1, STREAMS):
                for name in names:
                    body = targets[name].body("pace=0", EVENTS)
                    rate = asyncio.run(events_per_second(targets[name], clients, body))
                    rates.setdefault((name, clients), []).append(rate)
    print(f"\n{EVENTS} scripted events to each client; medians of {ROUNDS} alternating rounds")
    print(f"{'clients':>8}  {'server':<10} {'events/s':>10} {'ratio':>7} {'bar':>6}")
    for clients in (1, STREAMS):
        for name in names:
            # Round by round, so that a slow moment of the machine falls on both sides.
            ratio = statistics.median(
                ours / article for ours, article in zip(rates[name, clients], rates["article", clients], strict=True)
            )
            bar = BARS.get((name, clients))
            rate = statistics.median(rates[name, clients])
            print(f"{clients:>8}  {name:<10} {rate:>10,.0f} {ratio:>7.2f} {'' if bar is None else bar:>6}")


def compare_drivers() -> None:
    names = ("hop_per_step", "staying_worker")
    rates: dict[str, list[float]] = {name: [] for name in names}
    waits: dict[str, list[float]] = {name: [] for name in names}
    with servers(names) as targets:
        for _ in range(ROUNDS):
            for name in names:
                body = targets[name].body(*STORY)
                rates[name].append(asyncio.run(events_and_health(targets[name], STREAMS, body, waits[name])))
    print(f"\nThe bundled model at {STREAMS} streams; medians of {ROUNDS} alternating rounds")
    print(f"{'driver':<15} {'events/s':>9} {'ratio':>6} {'/health p50':>12} {'p99':>9} {'worst':>9}")
    for name in names:
        ratio = statistics.median(rate / hop for rate, hop in zip(rates[name], rates["hop_per_step"], strict=True))
        p50, p99, worst = (percentile(waits[name], percent) for percent in (50, 99, 100))
        rate = statistics.median(rates[name])
        print(f"{name:<15} {rate:>9,.0f} {ratio:>6.2f} {p50:>9.1f} ms {p99:>6.1f} ms {worst:>6.1f} ms")


@contextmanager
def servers(names: Sequence[str]) -> Iterator[dict[str, Target]]:
    """Run the servers of `names`, each in a process of its own; yields them once they answer."""
    with ExitStack() as stack:
        processes = {name: stack.enter_context(launched(server_named(name))) for name in names}
        for process in processes.values():
            process.wait_until_ready()
        yield {name: process.target for name, process in processes.items()}


def server_named(name: str) -> Command:
    return lambda port: ["-m", "study.benchmarks.transport_servers", name, str(port)]


async def events_per_second(target: Target, clients: int, body: dict[str, Any]) -> float:
    """Send the same request `clients` times at once and count the events of all the answers."""
    began = time.perf_counter()
    exchanges = await asyncio.gather(*(whole(target, body) for _ in range(clients)))
    seconds = time.perf_counter() - began
    events = [len(exchange.events()) + 1 for exchange in exchanges]  # with [DONE]
    if set(events) != {body["max_tokens"] + 2}:
        raise SystemExit(f"error: expected {body['max_tokens'] + 2} events for each client, got {sorted(events)}")
    return sum(events) / seconds


async def events_and_health(target: Target, clients: int, body: dict[str, Any], waits: list[float]) -> float:
    """The same, with requests to /health meanwhile, whose times in ms are appended to `waits`."""
    async with Pulses(target, HEALTH_EVERY, overlap=False) as pulses:
        rate = await events_per_second(target, clients, body)
    waits += [1e3 * pulse.waited for pulse in pulses.pulses]
    return rate


if __name__ == "__main__":
    main()
