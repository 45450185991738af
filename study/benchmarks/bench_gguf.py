"""A GGUF file on our server and on another one, both started here: `bench_engine --gguf` runs this.

    python -m study.benchmarks.bench_engine --gguf model.gguf --peer-command \\
        'llama-server -m {model} --port {port} --parallel {streams} --ctx-size {cache} --threads 2'

Both get the same number of cache tokens: `--context` for each stream. A prompt's words are tokens of the file's own
vocabulary, so it has 75 tokens on both servers. The loads alternate; ratios are those of one run.
"""

import argparse
import asyncio
import itertools
import random
import shlex
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from inference.weights.gguf.file import GGUFFile
from study.benchmarks import bench_speculation
from study.common.client import HEALTH_INTERVAL, Load, Target, load, percentile
from study.common.launcher import ROOT, free_port, launched, running, uvicorn

PROMPT_TOKENS, NEW_TOKENS = 75, 64
WORD_MARKS = ("Ġ", "▁")
"""How vocabularies write the space before a word."""

Row = dict[str, Any]


def words_of(file: GGUFFile) -> list[str]:
    """Words that are one token each, wherever they stand among others."""
    tokens = file.get("tokenizer.ggml.tokens", list)
    found = [token[1:] for token in tokens if token[:1] in WORD_MARKS and token[1:].isalnum() and token.isprintable()]
    return [word for word in found if word.isascii() and len(word) > 2]


def prompt_of(words: Sequence[str], file: GGUFFile) -> str:
    """A text with a token for each word. SentencePiece itself puts a space before the first word."""
    begins_with_space = file.get("tokenizer.ggml.model", str) == "llama"
    return " " * (not begins_with_space) + " ".join(words)


def bench(options: argparse.Namespace, memory_speed: Callable[[], float]) -> Row:
    """Measure both servers on `options.gguf`, printing as it goes; return it all."""
    file = GGUFFile.open(options.gguf)
    vocabulary, draw = words_of(file), random.Random(time.time_ns())
    most = max(options.streams)

    def prompts(count: int) -> list[str]:
        return [prompt_of(draw.choices(vocabulary, k=PROMPT_TOKENS), file) for _ in range(count)]

    with ExitStack() as stack:
        settings = _settings(options, most)
        processes = {"ours": stack.enter_context(launched(uvicorn("raw_asgi:app"), settings))}
        ready = {"ours": processes["ours"].wait_until_ready()}
        targets = {"ours": processes["ours"].target}
        set_to = shlex.join(f"{name}={value}" for name, value in settings.items())
        print(f"ours: {_version()}, torch {torch.__version__}: {set_to}")
        if options.peer_command:
            port = free_port()
            command = _peer_command(options, port, most)
            print(f"peer: {_first_line(command[0], '--version')}: {shlex.join(command)}")
            processes["peer"] = stack.enter_context(running(command[1:], program=command[0]))
            processes["peer"].given_port = port
            ready["peer"] = processes["peer"].wait_until_ready()
            targets["peer"] = Target(
                f"http://127.0.0.1:{port}{options.peer_path}", options.gguf.name, {"ignore_eos": True}
            )
        speeds: list[float] = []
        rows = list(_rows(targets, prompts, options, lambda: speeds.append(memory_speed())))
        memory = {name: process.memory for name, process in processes.items()}
    step, speed = _bytes_per_step(file), statistics.median(speeds or [memory_speed()])
    report = {"gguf": options.gguf.name, "ready_s": ready, "memory_bytes": memory, "rows": rows}
    report |= {"bytes_per_step": step, "memory_gb_per_s": speed / 1e9, "floor_ms": 1e3 * step / speed}
    _print_end(report)
    if options.speculate:
        report["speculation"] = bench_speculation.bench_http(str(options.gguf), options.rounds)
    return report


def _bytes_per_step(file: GGUFFile) -> int:
    """What a step of one stream reads of the weights: of all experts, those of its token."""
    experts = sum(blocks.data.nbytes for name, blocks in file.tensors.items() if "_exps." in name)
    if not experts:
        return file.bytes_per_step
    return file.bytes_per_step - experts + experts * file.count("expert_used_count") // file.count("expert_count")


def _settings(options: argparse.Namespace, streams: int) -> dict[str, str]:
    settings = {"ENGINE_MODEL": str(options.gguf), "ENGINE_COMPILE": "1", "ENGINE_MAX_STREAMS": str(streams)}
    settings["ENGINE_CONTEXT"] = str(options.context)
    return settings | dict(pair.split("=", 1) for pair in options.set)


def _peer_command(options: argparse.Namespace, port: int, streams: int) -> list[str]:
    values = {"model": options.gguf, "port": port, "streams": streams, "cache": streams * options.context}
    return [part.format(**values) for part in shlex.split(options.peer_command)]


def _version() -> str:
    return _first_line("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")


def _first_line(*command: str) -> str:
    """The first line that a program prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return next(iter((done.stdout + done.stderr).splitlines()), "")


def _rows(
    targets: dict[str, Target],
    prompts: Callable[[int], list[str]],
    options: argparse.Namespace,
    measure_memory: Callable[[], object],
) -> Iterator[Row]:
    print(f"{'streams':>8}{'server':>7}{'tok/s':>9}{'ratio':>7}{'TTFT p50':>10}{'ratio':>7}{'gap p50':>9}{'p99':>8}")
    for count in options.streams:
        loads: dict[str, list[Load]] = {name: [] for name in targets}
        for _, (name, target) in itertools.product(range(options.rounds + 1), targets.items()):
            if count == 1:
                measure_memory()
            loads[name].append(asyncio.run(load(target, prompts(count), NEW_TOKENS, options.health_interval)))
        figures = {name: _figures(its[1:]) for name, its in loads.items()}  # the first round warms up
        for name, row in figures.items():
            peer = figures.get("peer", row)
            speed_up, sooner = row["tok/s"] / peer["tok/s"], row["ttft"] / peer["ttft"]
            print(f"{count:>8}{name:>7}{row['tok/s']:>9.1f}{speed_up:>7.2f}{row['ttft']:>10.0f}{sooner:>7.2f}", end="")
            print(f"{row['gap_p50']:>9.1f}{row['gap_p99']:>8.1f}", flush=True)
            yield {"streams": count, "server": name, "ratio": speed_up, "ttft_ratio": sooner} | row


def _figures(loads: Sequence[Load]) -> dict[str, float]:
    """Medians of the rounds; times in milliseconds, over all of their tokens."""
    streams = [stream for load in loads for stream in load.streams]
    gaps = [gap for stream in streams for gap in stream.gaps]
    return {
        "tok/s": statistics.median(sum(stream.tokens for stream in load.streams) / load.seconds for load in loads),
        "ttft": 1e3 * percentile([stream.first_token_after for stream in streams], 50),
        "gap_p50": 1e3 * percentile(gaps, 50),
        "gap_p99": 1e3 * percentile(gaps, 99),
    }


def _print_end(report: Row) -> None:
    for name, seconds in report["ready_s"].items():
        print(f"{name}: ready after {seconds:.1f} s, then {report['memory_bytes'][name] / 1e9:.2f} GB", end="; ")
    alone = {row["server"]: row["gap_p50"] for row in report["rows"] if row["streams"] == 1}
    reached = [f"{name} reaches {report['floor_ms'] / gap:.2f}" for name, gap in alone.items() if gap]
    print(f"floor of a step: {report['bytes_per_step'] / 1e9:.3f} GB", end=" ")
    print(f"at {report['memory_gb_per_s']:.1f} GB/s = {report['floor_ms']:.1f} ms", end="")
    print(", of which " + " and ".join(reached) if reached else "", flush=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="measure this file, compiled, in place of a shape")
    parser.add_argument(
        "--peer-command", metavar="COMMAND", help="with --gguf: starts another server; {model} {port} {streams} {cache}"
    )
    parser.add_argument("--speculate", action="store_true", help="with --gguf: what guessing gains and costs")
    parser.add_argument("--peer-path", default="/v1/completions", help="where it takes prompts (default: %(default)s)")
    parser.add_argument("--context", type=int, default=512, help="with --gguf: cache tokens for each stream")
    parser.add_argument(
        "--health-interval", type=float, default=HEALTH_INTERVAL, help="with --gguf: seconds between asks of /health"
    )
