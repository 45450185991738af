"""How fast the engine is, through HTTP, as a streaming client sees it.

    make bench-engine                                                   # 135M and 1.1B shapes, random weights
    python -m study.benchmarks.bench_engine --shape 135M --streams 1,4,16 --compile
    python -m study.benchmarks.bench_engine --shape 135M --peer http://127.0.0.1:8001/v1/completions
    python -m study.benchmarks.bench_engine --shape 135M --growth    # 1 to 64 streams, long prompts, long contexts
    python -m study.benchmarks.bench_engine --shape 135M --compile --no-scenes --sampling --shared-prefix
    python -m study.benchmarks.bench_engine --gguf FILE --peer-command 'llama-server …'    # see bench_gguf
    python -m study.benchmarks.bench_engine --gguf FILE --streams 1 --speculate            # see bench_speculation

The server is the real one, a process of its own on a socket. Every request has a prompt of 75 random tokens and takes
64 new ones, greedily. `--peer` sends the same load to another server in turn with ours, because figures of another
hour cannot be compared. Start it with the checkpoint that `python -m study.benchmarks.shapes SHAPE FOLDER` writes and
name that folder with `--checkpoint`, so that both serve the same model.

Three scenes follow (`--no-scenes` leaves them out): a long prompt that arrives while eight streams run, a chat's second
turn, and, on a server with a clock in it, how long tokens wait between their step's end and `send`.

All streams of a round start at once, so the time to the first token is one sample a round, however many there are: it
depends on how many requests arrive before the first step begins. With two or three instead of one, the median of 16 is
a sixth shorter. To compare the times of two versions, use `--rounds 10`.

The floor is the time of reading every weight once at this machine's memory speed, which is measured with each load of
one stream. Results go to study/benchmarks/results/ as JSON, with a picture of tokens per second over
streams.
"""

import argparse
import asyncio
import functools
import gc
import itertools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from study.benchmarks import bench_gguf, bench_growth, picture
from study.benchmarks.shapes import SHAPES, bytes_per_step, prompt, write_checkpoint
from study.common.arguments import argument_parser
from study.common.client import Load, Stream, Target, ask, load, percentile, quotient, stream
from study.common.launcher import ROOT, Process, launched, uvicorn

PROMPT_TOKENS = 75
NEW_TOKENS = 64
RESULTS = ROOT / "study" / "benchmarks" / "results"
COLUMNS = {
    "tokens_per_second": "tok/s",
    "ttft_p50_ms": "TTFT p50",
    "ttft_max_ms": "max",
    "gap_p50_ms": "gap p50",
    "gap_p99_ms": "p99",
    "health_p50_ms": "/health p50",
    "health_p99_ms": "p99",
}

SAMPLED = {"temperature": 0.7, "top_p": 0.9}

Row = dict[str, Any]
Save = Callable[[Row], None]
"""Writes what there is of a report; called again whenever there is more."""


class Bench:
    """One shape on one server of ours, and on a peer if there is one."""

    def __init__(self, shape: str, ours: Target, peer: Target | None) -> None:
        self.shape = shape
        self.servers = {"ours": ours} | ({"peer": peer} if peer else {})
        # This process has imported torch and transformers: its own collector would stop it for 150 ms now and then, and
        # every server would seem to have paused.
        gc.collect()
        gc.freeze()
        # Measured with each load of one stream: other work on the machine changes it within seconds.
        self.memory_speeds: list[float] = []
        self._seeds = itertools.count(time.time_ns())  # a prompt that a server has seen before proves nothing

    def prompts(self, streams: int, tokens: int = PROMPT_TOKENS) -> list[str]:
        return [prompt(self.shape, tokens, next(self._seeds)) for _ in range(streams)]

    def load(self, server: str, prompts: Sequence[str], max_tokens: int = NEW_TOKENS) -> Load:
        return asyncio.run(load(self.servers[server], prompts, max_tokens))

    def throughput(self, streams: Sequence[int], rounds: int) -> Iterator[Row]:
        """A row for each number of streams and each server: the load of `rounds` rounds after one to warm up."""
        for count in streams:
            for server in self.servers:
                self.load(server, self.prompts(count), max_tokens=4)
            loads: dict[str, list[Load]] = {server: [] for server in self.servers}
            for _ in range(rounds):
                for server in self.servers:
                    if count == 1:
                        self.memory_speeds.append(memory_speed())
                    loads[server].append(self.load(server, self.prompts(count)))
            for server, its_loads in loads.items():
                yield {"server": server, "streams": count} | _together(its_loads).figures()

    def long_prompt_among_streams(self) -> Row:
        """The gaps of eight running streams when a prompt of 1,500 tokens arrives."""
        streams, long = asyncio.run(self._long_prompt_among_streams())
        gaps = [gap for one in streams for gap in one.gaps]
        median, p99 = percentile(gaps, 50), percentile(gaps, 99)
        return {
            "gap_p50_ms": 1e3 * median,
            "gap_p99_ms": 1e3 * p99,
            "ratio": quotient(p99, median),
            "ttft_ms": 1e3 * long.first_token_after,
        }

    async def _long_prompt_among_streams(self) -> tuple[list[Stream], Stream]:
        target = self.servers["ours"]
        running = [asyncio.create_task(stream(target, text, 160)) for text in self.prompts(8)]
        first = await stream(target, self.prompts(1)[0], 24)  # ends when the eight are well under way
        assert first.tokens == 24
        long = await stream(target, self.prompts(1, 1500)[0], 8)
        return [await task for task in running], long

    def second_turn(self) -> Row:
        """The time to the first token of a chat's next turn, compared with a new prompt of the same length."""
        cold: list[float] = []
        warm: list[float] = []
        cached = 0
        for _ in range(3):
            first = self.prompts(1, 1000)[0]
            cold.append(self.load("ours", [first], 8).streams[0].first_token_after)
            second = f"{first} {self.prompts(1, 20)[0]}"
            turn = self.load("ours", [second], 8).streams[0]
            warm.append(turn.first_token_after)
            cached = turn.closing.get("cached_tokens", 0)
        times = {"cold_ttft_ms": 1e3 * statistics.median(cold), "warm_ttft_ms": 1e3 * statistics.median(warm)}
        return times | {"cached_tokens": cached, "ratio": times["cold_ttft_ms"] / times["warm_ttft_ms"]}

    def sampling(self, streams: int, rounds: int) -> Row:
        """The cost of temperature 0.7 with top_p 0.9, compared with greedy; the loads take turns."""
        targets = {"greedy": self.servers["ours"], "sampled": replace(self.servers["ours"], parameters=SAMPLED)}
        loads: dict[str, list[Load]] = {name: [] for name in targets}
        for _ in range(rounds):
            for name, target in targets.items():
                loads[name].append(asyncio.run(load(target, self.prompts(streams), NEW_TOKENS)))
        gaps = {name: _together(its_loads).figures()["gap_p50_ms"] for name, its_loads in loads.items()}
        return {"streams": streams, **gaps, "ratio": quotient(gaps["sampled"], gaps["greedy"])}

    def shared_prefix(self, rounds: int, streams: int = 16, tokens: int = 1000) -> Row:
        """The time to the first token of many prompts with a common beginning, compared with that of one such prompt.

        The first round is reported separately: most slots are unused then, and their memory comes from the system.
        """
        one: list[float] = []
        many: list[float] = []
        for _ in range(rounds + 1):
            for count, times in ((1, one), (streams, many)):
                prompts = self._with_common_beginning(count, tokens)
                times += [1e3 * each.first_token_after for each in self.load("ours", prompts, 8).streams]
        alone, first, later = statistics.median(one[1:]), many[:streams], many[streams:]
        medians = {"one_ttft_ms": alone, "many_ttft_ms": statistics.median(later), "max_ttft_ms": max(later)}
        first_time = {"first_ttft_ms": statistics.median(first), "first_ratio": statistics.median(first) / alone}
        return (
            {"streams": streams, "tokens": tokens} | medians | {"ratio": medians["many_ttft_ms"] / alone} | first_time
        )

    def shared_prefix_gaps(self, rounds: int, streams: int = 16, tokens: int = 1000) -> Row:
        """The gap between the tokens of many texts with a common beginning, compared with as many different texts."""
        texts = {"shared": self._with_common_beginning(streams, tokens), "different": self.prompts(streams, tokens)}
        loads: dict[str, list[Load]] = {name: [] for name in texts}
        for name, prompts in texts.items():
            self.load("ours", prompts, 1)  # from here on each slot holds one of them, and all of them decode at once
            loads[name] = [self.load("ours", prompts) for _ in range(rounds)]
        gaps = {name: _together(its_loads).figures()["gap_p50_ms"] for name, its_loads in loads.items()}
        return {"streams": streams, "tokens": tokens, **gaps, "ratio": quotient(gaps["shared"], gaps["different"])}

    def _with_common_beginning(self, streams: int, tokens: int) -> list[str]:
        beginning = self.prompts(1, tokens)[0]
        return [f"{beginning} {tail}" for tail in self.prompts(streams, 4)]


def memory_speed() -> float:
    """Bytes per second at which this machine reads memory: the best of a few sums over 512 MB."""
    ones = torch.ones(1 << 27)
    ones.sum()
    seconds = []
    for _ in range(7):
        began = time.perf_counter()
        ones.sum()
        seconds.append(time.perf_counter() - began)
    return ones.numel() * ones.element_size() / min(seconds)


def bench_shape(shape: str, options: argparse.Namespace, save: Save) -> None:
    """Run everything for one shape; print and save it as it comes."""
    with tempfile.TemporaryDirectory(prefix="bench-engine-") as scratch:
        checkpoint = write_checkpoint(shape, options.checkpoint or Path(scratch))
        most_streams = max(64 if options.growth else 16, *options.streams)
        settings = {"ENGINE_MODEL": str(checkpoint), "ENGINE_MAX_STREAMS": str(most_streams), "ENGINE_CONTEXT": "4096"}
        settings |= {"ENGINE_COMPILE": "1"} if options.compile else {}
        settings |= dict(pair.split("=", 1) for pair in options.set)
        with launched(uvicorn("raw_asgi:app"), settings) as server:
            report = _bench_server(shape, server, options, save)
        if options.growth:
            with launched(uvicorn("raw_asgi:app"), settings | bench_growth.LONG_CONTEXTS) as server:
                server.wait_until_ready()
                bench = Bench(shape, server.target, None)
                _growth("prompts", bench_growth.with_prompts(bench), report, save)
                _growth("contexts", bench_growth.with_contexts(bench, memory_speed), report, save)
        if options.scenes:
            report["token_delay"] = scene = token_delays(shape, settings)
            print(f"from a step's end to the send of its tokens, {scene['streams']} streams:", end=" ")
            print(f"p50 {scene['p50_ms']:.2f}, p99 {scene['p99_ms']:.2f} ms;", end=" ")
            print(f"p99 {scene['running_p99_ms']:.2f} ms once all are running", flush=True)
            save(report)


def _growth(name: str, rows: Iterator[Row], report: Row, save: Save) -> None:
    kept = report.setdefault("growth", {}).setdefault(name, [])
    bench_growth.measure(name, rows, kept, lambda: save(report))


def token_delays(shape: str, settings: Mapping[str, str], streams: int = 16) -> Row:
    """How long after the end of its step a token's message is handed to the server."""
    with launched(uvicorn("study.benchmarks.timed_server:app"), settings) as server:
        server.wait_until_ready()
        bench = Bench(shape, server.target, None)
        bench.load("ours", bench.prompts(streams), 4)
        asyncio.run(ask(server.target.at("/delays")))  # forgets those of the warming up
        bench.load("ours", bench.prompts(streams))
        _, body = asyncio.run(ask(server.target.at("/delays")))
    delays = json.loads(body)
    every = [seconds for seconds, _ in delays]
    # In a step that made a token for every stream no prompt is left.
    running = [seconds for seconds, tokens in delays if tokens == streams]
    return {
        "streams": streams,
        "tokens": len(every),
        "p50_ms": 1e3 * percentile(every, 50),
        "p99_ms": 1e3 * percentile(every, 99),
        "running_tokens": len(running),
        "running_p99_ms": 1e3 * percentile(running, 99),
    }


def _bench_server(shape: str, server: Process, options: argparse.Namespace, save: Save) -> Row:
    start_up = server.wait_until_ready()
    peer = Target(options.peer, str(options.checkpoint)) if options.peer else None
    bench = Bench(shape, server.target, peer)
    print(f"\n{shape}, {_how(options)}; ready after {start_up:.1f} s; times in ms")
    print(f"{'':>6}{'streams':>8}" + "".join(f"{title:>13}" for title in COLUMNS.values()), flush=True)
    rows = []
    for row in bench.throughput(options.streams, options.rounds):
        rows.append(row)
        cells = "".join(f"{row[name]:>13.1f}" for name in COLUMNS)
        print(f"{row['server']:>6}{row['streams']:>8}{cells}", flush=True)
    speed = statistics.median(bench.memory_speeds or [memory_speed()])
    weights = bytes_per_step(shape) // (2 if _is_quantized(options) else 1)
    floor = 1e3 * weights / speed
    report: Row = {
        "shape": shape,
        "how": _how(options),
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "start_up_s": start_up,
        "memory_gb_per_s": speed / 1e9,
        "floor_ms": floor,
        "rows": rows,
    }
    alone = [row["gap_p50_ms"] for row in rows if row["server"] == "ours" and row["streams"] == 1]
    print(f"floor: {weights / 1e9:.2f} GB of weights at {speed / 1e9:.1f} GB/s = {floor:.1f} ms a step")
    if alone:
        report["share_of_floor"] = quotient(floor, alone[0])
        print(f"a step of one stream reaches {report['share_of_floor']:.2f} of the floor")
    for count, ours, theirs in _pairs(rows):
        speed_up = ours["tokens_per_second"] / theirs["tokens_per_second"]
        print(f"{count} streams: {speed_up:.2f} times the peer's tok/s", end=", ")
        print(f"{ours['ttft_p50_ms'] / theirs['ttft_p50_ms']:.2f} of its time to first token")
    if options.scenes:
        report["long_prompt"] = scene = bench.long_prompt_among_streams()
        print("a prompt of 1,500 tokens while 8 streams run: their gap", end=" ")
        print(f"p50 {scene['gap_p50_ms']:.1f}, p99 {scene['gap_p99_ms']:.1f}: {scene['ratio']:.1f} times", end="; ")
        print(f"its own TTFT {scene['ttft_ms']:.0f}")
        report["second_turn"] = scene = bench.second_turn()
        print(f"a second turn on {scene['cached_tokens']} cached tokens: TTFT {scene['warm_ttft_ms']:.0f}", end=", ")
        print(f"unseen {scene['cold_ttft_ms']:.0f}: {scene['ratio']:.1f} times sooner")
    if options.sampling:
        report["sampling"] = rows = [bench.sampling(count, options.rounds) for count in (1, 16)]
        for row in rows:
            print(f"temperature 0.7, top_p 0.9, {row['streams']} streams: a gap of {row['sampled']:.1f}", end=", ")
            print(f"greedy {row['greedy']:.1f}: {row['ratio']:.3f} times", flush=True)
    if options.shared_prefix:
        report["shared_prefix"] = scene = bench.shared_prefix(options.rounds)
        print(f"{scene['streams']} prompts with the same first {scene['tokens']:,} tokens: TTFT", end=" ")
        print(f"p50 {scene['many_ttft_ms']:.0f}, max {scene['max_ttft_ms']:.0f}; one such prompt", end=" ")
        print(f"{scene['one_ttft_ms']:.0f}: {scene['ratio']:.2f} times", end="; ")
        print(f"the first time {scene['first_ttft_ms']:.0f}: {scene['first_ratio']:.2f} times", flush=True)
        report["shared_prefix_gaps"] = scene = bench.shared_prefix_gaps(options.rounds)
        print(f"then a gap of {scene['shared']:.1f}; with different beginnings {scene['different']:.1f}", flush=True)
    if options.growth:
        bench.load("ours", bench.prompts(max(bench_growth.STREAMS)), 4)  # a slot's memory comes with its first request
        _growth("streams", bench.throughput(bench_growth.STREAMS, 1), report, save)
    report |= {"memory_bytes": server.memory, "peak_memory_bytes": server.peak_memory}
    print(f"memory: {server.memory / 1e9:.2f} GB, at most {server.peak_memory / 1e9:.2f} GB", flush=True)
    save(report)
    return report


def _is_quantized(options: argparse.Namespace) -> bool:
    return "ENGINE_QUANTIZE=int8" in options.set


def _how(options: argparse.Namespace) -> str:
    """Our server's settings, as they are printed."""
    return ", ".join([*(["compiled"] if options.compile else []), *options.set]) or "default"


def _together(loads: Sequence[Load]) -> Load:
    """Several rounds as one load: their seconds add up."""
    return Load(
        streams=[one for load in loads for one in load.streams],
        seconds=sum(load.seconds for load in loads),
        health=[seconds for load in loads for seconds in load.health],
    )


def _pairs(rows: Sequence[Row]) -> Iterator[tuple[int, Row, Row]]:
    peers = {row["streams"]: row for row in rows if row["server"] == "peer"}
    for row in rows:
        if row["server"] == "ours" and row["streams"] in peers:
            yield row["streams"], row, peers[row["streams"]]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--shape", choices=SHAPES, action="append", help="may be given twice (default: 135M and 1.1B)")
    parser.add_argument("--streams", type=lambda text: [int(n) for n in text.split(",")], default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=2, help="of each load; their figures are pooled")
    parser.add_argument("--compile", action="store_true", help="serve with ENGINE_COMPILE=1")
    parser.add_argument("--set", action="append", default=[], metavar="ENGINE_X=Y", help="any other setting")
    parser.add_argument("--peer", metavar="URL", help="another server, at its /v1/completions or /generate")
    parser.add_argument("--checkpoint", type=Path, help="folder of the model; made there if it is not there yet")
    parser.add_argument(
        "--scenes", action=argparse.BooleanOptionalAction, default=True, help="long prompt, second turn"
    )
    parser.add_argument("--sampling", action="store_true", help="also what temperature and top_p cost")
    parser.add_argument("--shared-prefix", action="store_true", help="also sixteen prompts with a common beginning")
    parser.add_argument("--growth", action="store_true", help="also how cost grows; takes minutes")
    parser.add_argument("--results", type=Path, default=RESULTS)
    bench_gguf.add_options(parser)
    options = parser.parse_args(arguments)
    options.shape = options.shape or ["135M", "1.1B"]
    if options.peer and not options.checkpoint:
        parser.error("--peer needs --checkpoint: both must serve the same model")
    if options.checkpoint and len(options.shape) > 1:
        parser.error("--checkpoint is of one model: give one --shape with it")
    if options.speculate and not options.gguf:
        parser.error("--speculate needs --gguf: random weights repeat nothing")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    options.results.mkdir(parents=True, exist_ok=True)
    if options.gguf:
        report = bench_gguf.bench(options, memory_speed)
        path = options.results / f"gguf-{options.gguf.stem}.json"
        path.write_text(json.dumps(report, indent=2) + "\n")
        print(f"written: {path}", flush=True)
        return
    for shape in options.shape:
        name = f"engine-{shape}{'-compiled' if options.compile else ''}{'-int8' if _is_quantized(options) else ''}"
        bench_shape(shape, options, functools.partial(_write, options.results / name))
        print(f"written: {options.results / name}.json and .svg", flush=True)


def _write(path: Path, report: Row) -> None:
    path.with_name(f"{path.name}.json").write_text(json.dumps(report, indent=2) + "\n")
    path.with_name(f"{path.name}.svg").write_text(picture.tokens_over_streams(report))


if __name__ == "__main__":
    main(sys.argv[1:])
