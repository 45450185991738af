"""Scenes for the benchmark of the engine: what one kind of request costs, compared with another.

Each takes a `Bench`, prints what it has found, and returns it for the report.
"""

import asyncio
import json
import statistics
from collections.abc import Mapping
from dataclasses import replace

from study.benchmarks.engine_loads import NEW_TOKENS, Bench, Row, together
from study.common.client import Load, Stream, ask, load, percentile, quotient, stream
from study.common.launcher import launched, uvicorn

SAMPLED = {"temperature": 0.7, "top_p": 0.9}


def long_prompt(bench: Bench) -> Row:
    """The gaps of eight running streams when a prompt of 1,500 tokens arrives."""
    streams, long = asyncio.run(_long_prompt_among_streams(bench))
    gaps = [gap for stream in streams for gap in stream.gaps]
    median, p99 = 1e3 * percentile(gaps, 50), 1e3 * percentile(gaps, 99)
    ratio, ttft = quotient(p99, median), 1e3 * long.first_token_after
    print(f"a prompt of 1,500 tokens while 8 streams run: their gap p50 {median:.1f}, p99 {p99:.1f}:", end=" ")
    print(f"{ratio:.1f} times; its own TTFT {ttft:.0f}", flush=True)
    return {"gap_p50_ms": median, "gap_p99_ms": p99, "ratio": ratio, "ttft_ms": ttft}


async def _long_prompt_among_streams(bench: Bench) -> tuple[list[Stream], Stream]:
    target = bench.servers["ours"]
    running = [asyncio.create_task(stream(target, text, 160)) for text in bench.prompts(8)]
    first = await stream(target, bench.prompts(1)[0], 24)  # ends when the eight are well under way
    assert first.tokens == 24
    long = await stream(target, bench.prompts(1, 1500)[0], 8)
    return [await task for task in running], long


def second_turn(bench: Bench) -> Row:
    """The time to the first token of a chat's next turn, compared with a new prompt of the same length."""
    unseen: list[float] = []
    second: list[float] = []
    cached = 0
    for _ in range(3):
        text = bench.prompts(1, 1000)[0]
        unseen.append(bench.load("ours", [text], 8).streams[0].first_token_after)
        turn = bench.load("ours", [f"{text} {bench.prompts(1, 20)[0]}"], 8).streams[0]
        second.append(turn.first_token_after)
        cached = turn.closing.get("cached_tokens", 0)
    cold, warm = 1e3 * statistics.median(unseen), 1e3 * statistics.median(second)
    print(f"a second turn on {cached} cached tokens: TTFT {warm:.0f}, unseen {cold:.0f}:", end=" ")
    print(f"{cold / warm:.1f} times sooner", flush=True)
    return {"cold_ttft_ms": cold, "warm_ttft_ms": warm, "cached_tokens": cached, "ratio": cold / warm}


def sampling(bench: Bench, streams: int, rounds: int) -> Row:
    """The cost of temperature 0.7 with top_p 0.9, compared with greedy; the loads take turns."""
    ours = bench.servers["ours"]
    targets = {"greedy": ours, "sampled": replace(ours, parameters=SAMPLED)}
    loads: dict[str, list[Load]] = {name: [] for name in targets}
    for _ in range(rounds):
        for name, target in targets.items():
            loads[name].append(asyncio.run(load(target, bench.prompts(streams), NEW_TOKENS)))
    gaps = _gaps(loads)
    ratio = quotient(gaps["sampled"], gaps["greedy"])
    print(f"temperature 0.7, top_p 0.9, {streams} streams: a gap of {gaps['sampled']:.1f}", end=", ")
    print(f"greedy {gaps['greedy']:.1f}: {ratio:.3f} times", flush=True)
    return {"streams": streams, **gaps, "ratio": ratio}


def shared_prefix(bench: Bench, rounds: int, streams: int = 16, tokens: int = 1000) -> Row:
    """The time to the first token of many prompts with a common beginning, compared with that of one such prompt.

    The first round is reported separately: most slots are unused then, and their memory comes from the system.
    """
    one: list[float] = []
    many: list[float] = []
    for _ in range(rounds + 1):
        for count, times in ((1, one), (streams, many)):
            prompts = _with_common_beginning(bench, count, tokens)
            times += [1e3 * each.first_token_after for each in bench.load("ours", prompts, 8).streams]
    alone, later = statistics.median(one[1:]), many[streams:]
    median, first = statistics.median(later), statistics.median(many[:streams])
    print(
        f"{streams} prompts with the same first {tokens:,} tokens: TTFT p50 {median:.0f}, max {max(later):.0f};",
        end=" ",
    )
    print(f"one such prompt {alone:.0f}: {median / alone:.2f} times; the first time {first:.0f}:", end=" ")
    print(f"{first / alone:.2f} times", flush=True)
    times_ms = {"one_ttft_ms": alone, "many_ttft_ms": median, "max_ttft_ms": max(later), "first_ttft_ms": first}
    return {"streams": streams, "tokens": tokens, **times_ms, "ratio": median / alone, "first_ratio": first / alone}


def shared_prefix_gaps(bench: Bench, rounds: int, streams: int = 16, tokens: int = 1000) -> Row:
    """The gap between the tokens of many texts with a common beginning, compared with as many different texts."""
    texts = {"shared": _with_common_beginning(bench, streams, tokens), "different": bench.prompts(streams, tokens)}
    loads: dict[str, list[Load]] = {name: [] for name in texts}
    for name, prompts in texts.items():
        bench.load("ours", prompts, 1)  # from here on each slot holds one of them, and all of them decode at once
        loads[name] = [bench.load("ours", prompts) for _ in range(rounds)]
    gaps = _gaps(loads)
    print(f"then a gap of {gaps['shared']:.1f}; with different beginnings {gaps['different']:.1f}", flush=True)
    return {"streams": streams, "tokens": tokens, **gaps, "ratio": quotient(gaps["shared"], gaps["different"])}


def token_delays(shape: str, settings: Mapping[str, str], streams: int = 16) -> Row:
    """How long after the end of its step a token's message is handed to the server, which has a clock in it."""
    with launched(uvicorn("study.benchmarks.timed_server:app"), settings) as server:
        server.wait_until_ready()
        bench = Bench(shape, server.target)
        bench.load("ours", bench.prompts(streams), 4)
        asyncio.run(ask(server.target.at("/delays")))  # forgets those of the warming up
        bench.load("ours", bench.prompts(streams))
        _, body = asyncio.run(ask(server.target.at("/delays")))
    delays = json.loads(body)
    every = [1e3 * seconds for seconds, _ in delays]
    # In a step that made a token for every stream no prompt is left.
    running = [1e3 * seconds for seconds, tokens in delays if tokens == streams]
    p50, p99, running_p99 = percentile(every, 50), percentile(every, 99), percentile(running, 99)
    print(f"from a step's end to the send of its tokens, {streams} streams: p50 {p50:.2f}, p99 {p99:.2f} ms;", end=" ")
    print(f"p99 {running_p99:.2f} ms once all are running", flush=True)
    counts = {"streams": streams, "tokens": len(every), "running_tokens": len(running)}
    return counts | {"p50_ms": p50, "p99_ms": p99, "running_p99_ms": running_p99}


def _with_common_beginning(bench: Bench, streams: int, tokens: int) -> list[str]:
    beginning = bench.prompts(1, tokens)[0]
    return [f"{beginning} {tail}" for tail in bench.prompts(streams, 4)]


def _gaps(loads: Mapping[str, list[Load]]) -> dict[str, float]:
    """The median gap between two tokens, in milliseconds, of each kind of load."""
    return {name: together(measured).figures()["gap_p50_ms"] for name, measured in loads.items()}
