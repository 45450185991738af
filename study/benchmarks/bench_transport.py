"""How much of a token's way costs what: `make bench-transport`.

Three measurements, each with both sides in one run, alternating, and told as ratios:

1. Transport: 2,000 scripted events to 1 and to 16 clients through FastAPI with an executor hop per token (the
   article's way, made to end), through `app.py` and through `raw_asgi.py`.
2. The driver: the bundled model at 16 streams with a hop to the worker thread per step, and with a worker that stays.
3. `/health` while 16 streams of the bundled model run.
"""

import asyncio
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

EVENTS = 2_000
STREAMS = 16
ROUNDS = 5
HEALTH_EVERY = 0.01
BARS = {("app", 1): 1.0, ("raw_asgi", 1): 1.0, ("app", STREAMS): 3.0, ("raw_asgi", STREAMS): 4.0}


def main() -> None:
    compare_transports()
    compare_drivers()


def compare_transports() -> None:
    names = ("article", "app", "raw_asgi")
    rates: dict[tuple[str, int], list[float]] = {}
    with servers(names) as ports:
        for _ in range(ROUNDS):
            for clients in (1, STREAMS):
                for name in names:
                    body = {"prompt": "-", "max_tokens": EVENTS} | ({} if name == "article" else {"stream": True})
                    rate = asyncio.run(events_per_second(ports[name], clients, body))
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
    body = {"prompt": "Tell me a story.", "max_tokens": 128, "ignore_eos": True, "stream": True}
    rates: dict[str, list[float]] = {name: [] for name in names}
    waits: dict[str, list[float]] = {name: [] for name in names}
    with servers(names) as ports:
        for _ in range(ROUNDS):
            for name in names:
                rates[name].append(asyncio.run(events_per_second(ports[name], STREAMS, body, waits[name])))
    print(f"\nThe bundled model at {STREAMS} streams; medians of {ROUNDS} alternating rounds")
    print(f"{'driver':<15} {'events/s':>9} {'ratio':>6} {'/health p50':>12} {'p99':>9} {'worst':>9}")
    for name in names:
        ratio = statistics.median(rate / hop for rate, hop in zip(rates[name], rates["hop_per_step"], strict=True))
        waits[name].sort()
        p50, p99 = (waits[name][int(share * len(waits[name]))] for share in (0.5, 0.99))
        rate = statistics.median(rates[name])
        print(f"{name:<15} {rate:>9,.0f} {ratio:>6.2f} {p50:>9.1f} ms {p99:>6.1f} ms {waits[name][-1]:>6.1f} ms")


@contextlib.contextmanager
def servers(names: Sequence[str]) -> Iterator[dict[str, int]]:
    """Run the servers of `names`, each in a process of its own; yields their ports once they answer."""
    ports = {name: free_port() for name in names}
    command = (sys.executable, "-m", "study.benchmarks.transport_servers")
    processes = [subprocess.Popen([*command, name, str(port)]) for name, port in ports.items()]
    try:
        for port in ports.values():
            asyncio.run(until_healthy(port))
        yield ports
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(10)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


async def until_healthy(port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(OSError):
                if (await health(port)).startswith(b"HTTP/1.1 200"):
                    return
            await asyncio.sleep(0.1)


async def health(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer


async def events_per_second(
    port: int, clients: int, body: dict[str, object], waits: list[float] | None = None
) -> float:
    """Stream to `clients` at once. Into `waits`, if given, goes what each of many /health calls took, in ms."""
    poll = asyncio.create_task(poll_health(port, waits)) if waits is not None else None
    began = time.perf_counter()
    counts = await asyncio.gather(*[stream(port, json.dumps(body).encode()) for _ in range(clients)])
    seconds = time.perf_counter() - began
    if poll is not None:
        poll.cancel()
    expected = int(str(body["max_tokens"])) + 2  # the closing event and [DONE]
    if set(counts) != {expected}:
        raise SystemExit(f"error: expected {expected} events for each client, got {sorted(counts)}")
    return sum(counts) / seconds


async def stream(port: int, body: bytes) -> int:
    """Read one stream to its end; returns the number of its events."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    events = 0
    tail = b""
    while data := await reader.read(1 << 16):
        data = tail + data
        events += data.count(b"data: ")
        tail = data[-len(b"data: ") + 1 :]
    writer.close()
    return events


async def poll_health(port: int, waits: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await health(port)
        waits.append(1e3 * (time.perf_counter() - began))
        await asyncio.sleep(HEALTH_EVERY)


if __name__ == "__main__":
    main()
