"""One engine process and several workers, compared with everything in one process: events per second, and /health.

    python -m study.benchmarks.bench_workers

The engine is scripted: a step takes no time ("as fast as they go"), or 10 ms, as on a GPU. The client is a process of
its own on the same machine, so on two cores it takes its share of them. All the layouts run in turn, several times; the
table has the medians.
"""

import asyncio
import statistics
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from study.common.arguments import argument_parser
from study.common.client import load
from study.common.document import table
from study.common.launcher import Process, memory_of, running
from study.common.scripted_workers import NAME, all_ready

WORKERS = (0, 1, 2, 4)
STREAMS = (64, 256)
PACES = {"as fast as they go": ("size=5", 600), "10 ms a step": ("pace=10", 150)}
"""What a prompt asks of the scripted engine, and how many tokens."""
ROUNDS = 3
HEAD = ("engine", "streams", "workers", "events/s", "of one process", "/health p99 ms", "CPU per event µs")


@dataclass(frozen=True, slots=True)
class Run:
    events_per_second: float
    health_p99_ms: float
    cpu_per_event_us: float
    """Of all of the server's processes."""


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    runs: dict[tuple[str, int, int], list[Run]] = defaultdict(list)
    memory: dict[int, str] = {}
    for _ in range(rounds):
        for workers in WORKERS:
            with serving(workers) as process:
                memory[workers] = sizes(process, workers)
                for pace, (prompt, tokens) in PACES.items():
                    for streams in STREAMS:
                        runs[pace, streams, workers].append(measure(process, prompt, streams, tokens))
    print(table(HEAD, rows(runs)))
    print()
    print("\n".join(f"{workers} workers: {text}" for workers, text in memory.items()))


@contextmanager
def serving(workers: int) -> Iterator[Process]:
    environ = {"ENGINE_MAX_STREAMS": str(max(STREAMS))}
    with running(["-m", NAME, "raw_asgi", "--workers", str(workers)], environ) as process:
        process.wait_for(lambda: all_ready(process, max(workers, 1)))
        yield process


def measure(process: Process, prompt: str, streams: int, tokens: int) -> Run:
    began = process.cpu_seconds() or 0.0
    found = asyncio.run(load(process.target, [prompt] * streams, tokens)).figures()
    spent = (process.cpu_seconds() or 0.0) - began
    return Run(found["tokens_per_second"], found["health_p99_ms"], 1e6 * spent / (streams * tokens))


def sizes(process: Process, workers: int) -> str:
    """What the processes hold, in MB."""
    if not workers:
        return f"the process {process.memory >> 20} MB"
    (engine,) = process.children("engine --until")
    each = [memory_of(pid) >> 20 for pid in process.children("spawn_main")]
    return f"launcher {process.memory >> 20}, engine {memory_of(engine) >> 20}, each worker {max(each)} MB"


def rows(runs: dict[tuple[str, int, int], list[Run]]) -> Iterator[list[str]]:
    """The medians; rates as multiples of those of one process."""
    for (pace, streams, workers), repeated in sorted(runs.items(), key=lambda item: (item[0][0], *item[0][1:])):
        rate = statistics.median(run.events_per_second for run in repeated)
        single = statistics.median(run.events_per_second for run in runs[pace, streams, 0])
        health = statistics.median(run.health_p99_ms for run in repeated)
        cpu = statistics.median(run.cpu_per_event_us for run in repeated)
        layout = str(workers or "one process")
        yield [pace, str(streams), layout, f"{rate:,.0f}", f"{rate / single:.2f}", f"{health:.1f}", f"{cpu:.1f}"]


if __name__ == "__main__":
    main()
