"""What speculation gains and costs, on texts that repeat their prompt and on others.

    python -m study.benchmarks.bench_speculation model.gguf             # in this process: processor time
    python -m study.benchmarks.bench_speculation model.gguf --http      # through HTTP; bench_engine --speculate too

The same prompts are continued in turn with guesses (ENGINE_SPECULATE=ngram) and without. Paragraphs of a document
followed by their own first words, and beginnings of programs followed by their first lines, are continued greedily;
beginnings of stories at temperature 1.

In this process an engine runs on one thread. The processor time of the best round counts, so that other programs on the
machine matter little. With more threads a guess costs less, since memory is the limit. Through HTTP there are two
servers with their default threads; the time from a stream's first token to its last counts, and the servers' processor
time. With sixteen streams there are no guesses, so both servers should do the same.
"""

import asyncio
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from config import Config
from engine import Engine
from study.common.arguments import argument_parser
from study.common.client import Load, ask, load
from study.common.launcher import ROOT, Process, launched, uvicorn

NEW_TOKENS = 100
DOCUMENT = ROOT / "docs" / "structure.md"
PROGRAMS = ROOT / "lessons"
PLACES = ("forest", "city", "castle", "desert", "ship", "garden")
WAYS = (False, True)


@dataclass(frozen=True)
class Texts:
    """Prompts, and how they are continued."""

    prompts: Sequence[str]
    parameters: Mapping[str, Any] = field(default_factory=dict)


def texts() -> dict[str, Texts]:
    paragraphs = [part for part in DOCUMENT.read_text().split("\n\n") if len(part) > 500][: len(PLACES)]
    programs = [path.read_text()[:1200] for path in sorted(PROGRAMS.glob("0*.py"))][: len(PLACES)]
    return {
        "edit a program": Texts(
            [f"{part}\n\n# Now better:\n\n{part[:150]}" for part in programs], {"temperature": 0.0}
        ),
        "repeat their prompt": Texts([f"{part}\n\n{part[:150]}" for part in paragraphs], {"temperature": 0.0}),
        "do not": Texts([f"Once upon a time in a {place}" for place in PLACES], {"temperature": 1.0, "seed": 1}),
    }


def bench(model: str, rounds: int = 3) -> list[dict[str, Any]]:
    """A row for each kind of text, printed as it comes."""
    torch.set_num_threads(1)
    engine = Engine.load(Config(model=model, compile=True, speculate="ngram", max_streams=4, context=1024))
    return [_row(engine, kind, its, rounds) for kind, its in texts().items()]


def _row(engine: Engine, kind: str, its: Texts, rounds: int) -> dict[str, Any]:
    before = engine.counters()
    seconds = dict.fromkeys(WAYS, 0.0)
    for prompt in its.prompts:
        taken: dict[bool, list[float]] = {way: [] for way in WAYS}
        answers = []
        for way in WAYS * rounds:
            engine._speculates = way
            engine.generate(prompt, max_tokens=1)  # so that the prompt is in the cache
            began = time.process_time()
            answers.append(engine.generate(prompt, max_tokens=NEW_TOKENS, ignore_eos=True, **its.parameters))
            taken[way].append(time.process_time() - began)
        assert len({tuple(answer["token_ids"]) for answer in answers}) == 1, "guessing has changed the text"
        for way in WAYS:
            seconds[way] += min(taken[way])
    after = engine.counters()
    row = {
        "texts": kind,
        "ratio": seconds[False] / seconds[True],
        "guessed": (after.guessed_tokens - before.guessed_tokens) // rounds,
        "true": (after.true_guesses - before.true_guesses) // rounds,
        "tokens": NEW_TOKENS * len(its.prompts),
    }
    print(f"texts that {kind}: {row['ratio']:.2f} times as fast with guesses", end="; ")
    print(f"{row['guessed']} guesses, {row['true']} true, in {row['tokens']} tokens", flush=True)
    return row


STREAMS = (1, 16)
SERVERS = {"without": {}, "with": {"ENGINE_SPECULATE": "ngram"}}


def bench_http(model: str, rounds: int = 3) -> list[dict[str, Any]]:
    """A row for each kind of text and number of streams, printed as it comes."""
    settings = {"ENGINE_MODEL": model, "ENGINE_COMPILE": "1", "ENGINE_MAX_STREAMS": "16", "ENGINE_CONTEXT": "1024"}
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(launched(uvicorn("raw_asgi:app"), settings | more))
            for name, more in SERVERS.items()
        }
        for server in servers.values():
            server.wait_until_ready()
        kinds = texts().items()
        return [_http_row(servers, kind, its, streams, rounds) for streams in STREAMS for kind, its in kinds]


@dataclass
class Turns:
    """The times of one server: each batch of prompts several times, after a first time that fills the cache."""

    server: Process
    spans: list[float] = field(default_factory=list)
    """For each batch, the seconds from a stream's first token to its last."""
    cpu: float = 0.0
    """The server's processor time for all of them, once."""

    def add(self, its: Sequence[tuple[Load, float]]) -> None:
        """Count a batch's loads, each with the processor time that it took."""
        spans = [
            statistics.median(stream.tokens_at[-1] - stream.tokens_at[0] for stream in load.streams)
            for load, _ in its[1:]
        ]
        self.spans.append(statistics.median(spans))
        self.cpu += statistics.median(seconds for _, seconds in its[1:])

    def load(self, prompts: Sequence[str], parameters: Mapping[str, Any]) -> tuple[Load, float]:
        began = self.server.cpu_seconds() or 0.0
        target = replace(self.server.target, parameters=parameters)
        return asyncio.run(load(target, prompts, NEW_TOKENS)), (self.server.cpu_seconds() or 0.0) - began


def _http_row(servers: Mapping[str, Process], kind: str, its: Texts, streams: int, rounds: int) -> dict[str, Any]:
    batches = [[prompt] for prompt in its.prompts] if streams == 1 else [(list(its.prompts) * streams)[:streams]]
    turns = {name: Turns(server) for name, server in servers.items()}
    before = _guesses(servers["with"])
    for prompts in batches:
        loads: dict[str, list[tuple[Load, float]]] = {name: [] for name in turns}
        for name in list(turns) * (rounds + 1):
            loads[name].append(turns[name].load(prompts, its.parameters))
        for name, of_batch in loads.items():
            turns[name].add(of_batch)
    guessed, true = (now - earlier for now, earlier in zip(_guesses(servers["with"]), before, strict=True))
    row = {
        "texts": kind,
        "streams": streams,
        "ratio": sum(turns["without"].spans) / sum(turns["with"].spans),
        "cpu_ratio": turns["without"].cpu / max(turns["with"].cpu, 1e-9),
        "guessed": guessed // (rounds + 1),
        "true": true // (rounds + 1),
        "tokens": NEW_TOKENS * sum(map(len, batches)),
    }
    print(f"{streams} streams, texts that {kind}: {row['ratio']:.2f} times as fast with guesses", end=", ")
    print(f"{row['cpu_ratio']:.2f} by processor time; {row['guessed']} guesses, {row['true']} true", end=", ")
    print(f"in {row['tokens']} tokens", flush=True)
    return row


def _guesses(server: Process) -> tuple[int, int]:
    """How many tokens a server has guessed, and how many of them were right."""
    _, body = asyncio.run(ask(server.target.at("/metrics")))
    found = dict(re.findall(r"^engine_(guessed_tokens|true_guesses)_total (\S+)", body.decode(), re.MULTILINE))
    return int(float(found["guessed_tokens"])), int(float(found["true_guesses"]))


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--http", action="store_true", help="two servers, at one stream and at sixteen")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    (bench_http if options.http else bench)(str(options.model), options.rounds)


if __name__ == "__main__":
    main()
