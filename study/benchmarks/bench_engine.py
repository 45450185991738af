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
import functools
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from study.benchmarks import bench_gguf, bench_growth, engine_scenes, picture
from study.benchmarks.engine_loads import Bench, Row, memory_speed
from study.benchmarks.shapes import SHAPES, write_checkpoint
from study.common.arguments import argument_parser
from study.common.client import Target, quotient
from study.common.launcher import ROOT, Process, launched, uvicorn

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

Save = Callable[[Row], None]
"""Writes what there is of a report; called again whenever there is more."""


def bench_shape(shape: str, options: argparse.Namespace, save: Save) -> None:
    """Run everything for one shape; print and save it as it comes."""
    with tempfile.TemporaryDirectory(prefix="bench-engine-") as scratch:
        checkpoint = write_checkpoint(shape, options.checkpoint or Path(scratch))
        settings = _settings(checkpoint, options)
        with launched(uvicorn("raw_asgi:app"), settings) as server:
            report = _bench_server(shape, server, options, save)
        if options.growth:
            with launched(uvicorn("raw_asgi:app"), settings | bench_growth.LONG_CONTEXTS) as server:
                server.wait_until_ready()
                bench = Bench(shape, server.target, quantize=_quantized(options))
                _growth("prompts", bench_growth.with_prompts(bench), report, save)
                _growth("contexts", bench_growth.with_contexts(bench, memory_speed), report, save)
        if options.scenes:
            report["token_delay"] = engine_scenes.token_delays(shape, settings)
            save(report)


def _settings(checkpoint: Path, options: argparse.Namespace) -> dict[str, str]:
    most_streams = max(64 if options.growth else 16, *options.streams)
    settings = {"ENGINE_MODEL": str(checkpoint), "ENGINE_MAX_STREAMS": str(most_streams), "ENGINE_CONTEXT": "4096"}
    settings |= {"ENGINE_COMPILE": "1"} if options.compile else {}
    return settings | dict(pair.split("=", 1) for pair in options.set)


def _bench_server(shape: str, server: Process, options: argparse.Namespace, save: Save) -> Row:
    """Measure a server that has been started, and a peer if there is one."""
    start_up = server.wait_until_ready()
    peer = Target(options.peer, str(options.checkpoint)) if options.peer else None
    bench = Bench(shape, server.target, peer, _quantized(options))
    report: Row = {
        "shape": shape,
        "how": _how(options),
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "start_up_s": start_up,
    }
    print(f"\n{shape}, {report['how']}; ready after {start_up:.1f} s; times in ms")
    report["rows"] = rows = _printed(bench.throughput(options.streams, options.rounds))
    report |= _floor(bench, rows)
    _print_ratios(rows)
    if options.scenes:
        report["long_prompt"] = engine_scenes.long_prompt(bench)
        report["second_turn"] = engine_scenes.second_turn(bench)
    if options.sampling:
        report["sampling"] = [engine_scenes.sampling(bench, count, options.rounds) for count in (1, 16)]
    if options.shared_prefix:
        report["shared_prefix"] = engine_scenes.shared_prefix(bench, options.rounds)
        report["shared_prefix_gaps"] = engine_scenes.shared_prefix_gaps(bench, options.rounds)
    if options.growth:
        bench.load("ours", bench.prompts(max(bench_growth.STREAMS)), 4)  # a slot's memory comes with its first request
        _growth("streams", bench.throughput(bench_growth.STREAMS, 1), report, save)
    report |= {"memory_bytes": server.memory, "peak_memory_bytes": server.peak_memory}
    print(f"memory: {server.memory / 1e9:.2f} GB, at most {server.peak_memory / 1e9:.2f} GB", flush=True)
    save(report)
    return report


def _printed(measured: Iterator[Row]) -> list[Row]:
    """Print each row when it is measured; return all of them."""
    print(f"{'':>6}{'streams':>8}" + "".join(f"{title:>13}" for title in COLUMNS.values()), flush=True)
    rows = []
    for row in measured:
        rows.append(row)
        cells = "".join(f"{row[name]:>13.1f}" for name in COLUMNS)
        print(f"{row['server']:>6}{row['streams']:>8}{cells}", flush=True)
    return rows


def _floor(bench: Bench, rows: Sequence[Row]) -> Row:
    """The time that reading all weights takes, and the share of it that a step of one stream reaches."""
    speed = statistics.median(bench.memory_speeds or [memory_speed()])
    floor = 1e3 * bench.weight_bytes / speed
    print(f"floor: {bench.weight_bytes / 1e9:.2f} GB of weights at {speed / 1e9:.1f} GB/s = {floor:.1f} ms a step")
    found = {"memory_gb_per_s": speed / 1e9, "floor_ms": floor}
    for row in rows:
        if (row["server"], row["streams"]) == ("ours", 1):
            found["share_of_floor"] = share = quotient(floor, row["gap_p50_ms"])
            print(f"a step of one stream reaches {share:.2f} of the floor")
    return found


def _print_ratios(rows: Sequence[Row]) -> None:
    for count, ours, theirs in _pairs(rows):
        speed_up = ours["tokens_per_second"] / theirs["tokens_per_second"]
        print(f"{count} streams: {speed_up:.2f} times the peer's tok/s", end=", ")
        print(f"{ours['ttft_p50_ms'] / theirs['ttft_p50_ms']:.2f} of its time to first token")


def _pairs(rows: Sequence[Row]) -> Iterator[tuple[int, Row, Row]]:
    peers = {row["streams"]: row for row in rows if row["server"] == "peer"}
    for row in rows:
        if row["server"] == "ours" and row["streams"] in peers:
            yield row["streams"], row, peers[row["streams"]]


def _growth(name: str, rows: Iterator[Row], report: Row, save: Save) -> None:
    kept = report.setdefault("growth", {}).setdefault(name, [])
    bench_growth.measure(name, rows, kept, lambda: save(report))


def _quantized(options: argparse.Namespace) -> str | None:
    """What the weights are rounded to, if they are."""
    return dict(pair.split("=", 1) for pair in options.set).get("ENGINE_QUANTIZE")


def _how(options: argparse.Namespace) -> str:
    """Our server's settings, as they are printed."""
    return ", ".join([*(["compiled"] if options.compile else []), *options.set]) or "default"


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
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
    options = options_from(arguments)
    options.results.mkdir(parents=True, exist_ok=True)
    if options.gguf:
        report = bench_gguf.bench(options, memory_speed)
        path = options.results / f"gguf-{options.gguf.stem}.json"
        path.write_text(json.dumps(report, indent=2) + "\n")
        print(f"written: {path}", flush=True)
        return
    for shape in options.shape:
        quantized = _quantized(options)
        name = "-".join(filter(None, ("engine", shape, "compiled" if options.compile else "", quantized)))
        bench_shape(shape, options, functools.partial(_write, options.results / name))
        print(f"written: {options.results / name}.json and .svg", flush=True)


def _write(path: Path, report: Row) -> None:
    path.with_name(f"{path.name}.json").write_text(json.dumps(report, indent=2) + "\n")
    path.with_name(f"{path.name}.svg").write_text(picture.tokens_over_streams(report))


if __name__ == "__main__":
    main(sys.argv[1:])
