"""How cost grows: with the number of streams, with the prompt, with the context. `bench_engine --growth` runs this.

    python -m study.benchmarks.bench_engine --shape 135M --compile --streams 1 --no-scenes --growth

Each row is printed and written to the results as soon as it is measured. Short prompts are sent three times, and the
median counts. Prompts from 2,048 tokens on are sent once: they take many steps, and one slow step changes little.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from study.benchmarks.shapes import bytes_per_cached_token
from study.common.client import Load, percentile

STREAMS = (1, 2, 4, 8, 16, 32, 64)
PROMPTS = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
CONTEXTS = (128, 512, 2048, 4096, 8192, 16_000)
ONCE_FROM = 2048
LONG_CONTEXTS = {"ENGINE_CONTEXT": "16384", "ENGINE_MAX_STREAMS": "8"}
"""What a server of long prompts and contexts is started with."""

Row = dict[str, Any]


class Loads(Protocol):
    """Sends prompts of random tokens to a server of this shape."""

    shape: str
    weight_bytes: int
    """That a step reads."""

    def prompts(self, streams: int, tokens: int) -> list[str]: ...
    def load(self, server: str, prompts: Sequence[str], max_tokens: int) -> Load: ...


def with_prompts(bench: Loads, lengths: Sequence[int] = PROMPTS) -> Iterator[Row]:
    """The time to the first token of new prompts."""
    for tokens in lengths:
        times = 1 if tokens >= ONCE_FROM else 3
        loads = [bench.load("ours", bench.prompts(1, tokens), 2) for _ in range(times)]
        first = 1e3 * percentile([load.streams[0].first_token_after for load in loads], 50)
        yield {"prompt_tokens": tokens, "ttft_ms": first, "ms_per_token": first / tokens, "times": times}


def with_contexts(bench: Loads, memory_speed: Callable[[], float], contexts: Sequence[int] = CONTEXTS) -> Iterator[Row]:
    """A step of one stream at each context, and of eight that share it, compared with reading all that it must read."""
    for tokens in contexts:
        [beginning] = bench.prompts(1, tokens)
        row: Row = {"context": tokens}
        for streams in (1, 8):  # the second time, the context is in the cache, so no step has a chunk of it
            load = bench.load("ours", [f"{beginning} {tail}" for tail in bench.prompts(streams, 4)], 40)
            read = bench.weight_bytes + streams * tokens * bytes_per_cached_token(bench.shape)
            row[f"gap_{streams}_ms"] = 1e3 * percentile([gap for load in load.streams for gap in load.gaps], 50)
            row[f"floor_{streams}_ms"] = 1e3 * read / memory_speed()
        yield row


def measure(name: str, rows: Iterator[Row], kept: list[Row], save: Callable[[], object]) -> None:
    """Print each row when it is measured, and keep it."""
    began = time.perf_counter()
    print(f"\ngrowth with {name}")
    for row in rows:
        numbers = {column: value for column, value in row.items() if isinstance(value, int | float)}
        if not kept:
            print("".join(f"{column:>18}" for column in numbers))
        print("".join(f"{value:>18.2f}" for value in numbers.values()), flush=True)
        kept.append(row)
        save()
    print(f"({time.perf_counter() - began:.0f} s)", flush=True)
