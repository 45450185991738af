"""What guessing gains and costs at one stream, on texts that repeat their prompt and on others.

    python -m study.benchmarks.bench_speculation model.gguf        # or bench_engine --gguf model.gguf --speculate

An engine in this process continues the same prompts in turn with guesses (ENGINE_SPECULATE=ngram) and without: each
paragraph of a document followed by its own first words, greedily, and beginnings of stories at temperature 1. What is
measured is processor time on one thread, the least of the rounds, so that neighbours on the machine count little. With
more threads a guess costs less, since memory is the limit.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from config import Config
from engine import Engine
from study.common.launcher import ROOT

NEW_TOKENS = 100
DOCUMENT = ROOT / "docs" / "structure.md"
PLACES = ("forest", "city", "castle", "desert", "ship", "garden")
WAYS = (False, True)


@dataclass(frozen=True)
class Texts:
    """Prompts, and how they are continued."""

    prompts: Sequence[str]
    parameters: Mapping[str, Any] = field(default_factory=dict)


def texts() -> dict[str, Texts]:
    paragraphs = [part for part in DOCUMENT.read_text().split("\n\n") if len(part) > 500][: len(PLACES)]
    return {
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
        told = []
        for way in WAYS * rounds:
            engine._speculates = way
            engine.generate(prompt, max_tokens=1)  # so that the prompt is in the cache
            began = time.process_time()
            told.append(engine.generate(prompt, max_tokens=NEW_TOKENS, ignore_eos=True, **its.parameters))
            taken[way].append(time.process_time() - began)
        assert len({tuple(one["token_ids"]) for one in told}) == 1, "guessing has changed the text"
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


if __name__ == "__main__":
    bench(str(Path(sys.argv[1])))
