"""What sampling costs: the time of a step with each sampling parameter, compared with a greedy one.

    python -m study.benchmarks.bench_sampling                      # all rows use it: 1 and 16 streams
    python -m study.benchmarks.bench_sampling --one-row            # one row of sixteen uses it
    python -m study.benchmarks.bench_sampling --vocabulary 151936 --streams 16
    python -m study.benchmarks.bench_sampling --only repetition "logprobs 5"   # some parameters
    python -m study.benchmarks.bench_sampling --one-row --model SmolLM2.gguf   # a model of your own; grammars too

The engine runs in this process, compiled, on random weights in the shapes of the smallest models of their families,
whose steps are short: SmolLM2-135M has 49,152 tokens, Qwen2.5-0.5B 151,936. Random weights give nearly flat
distributions, where top_p leaves half of the vocabulary: real ones cost less.

The measure is the processor time, on one thread, of the fastest steps, since other programs on the machine cannot make
these longer. Batches of greedy rows and of others take turns.
"""

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from config import Config
from engine import Engine
from interface.engine import StepEvents
from interface.events import Token
from interface.requests import GenerationRequest, Grammar, SequenceId, text_request
from study.benchmarks.shapes import prompt, write_checkpoint
from study.common.arguments import argument_parser
from study.common.client import percentile

SHAPES = {49_152: "135M", 151_936: "0.5B"}
PROMPT_TOKENS = 200
STEPS = 24
FAST = 10
GREEDY: Mapping[str, Any] = {"temperature": 0.0}
SAMPLED: Mapping[str, Any] = {"temperature": 0.7, "seed": 1}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "greedy again": GREEDY,
    "temperature 0.7": SAMPLED,
    "top_p 0.9": {**SAMPLED, "top_p": 0.9},
    "top_k 40": {**SAMPLED, "top_k": 40},
    "min_p 0.05": {**SAMPLED, "min_p": 0.05},
    "all three": {**SAMPLED, "top_p": 0.9, "top_k": 40, "min_p": 0.05},
    "frequency, presence": {**GREEDY, "frequency_penalty": 0.5, "presence_penalty": 0.5},
    "repetition": {**GREEDY, "repetition_penalty": 1.1},
    "logit_bias": {**GREEDY, "logit_bias": dict.fromkeys(range(50), -100.0)},
    "all penalties": {**GREEDY, "frequency_penalty": 0.5, "presence_penalty": 0.5, "repetition_penalty": 1.1},
    "logprobs 0": {**GREEDY, "logprobs": 0},
    "logprobs 5": {**GREEDY, "logprobs": 5},
    "logprobs 20": {**GREEDY, "logprobs": 20},
}
GRAMMAR = Grammar("regex", "[a-zA-Z ,.]{2000,4000}")
"""A grammar whose text does not end before the steps do."""
WITH_GRAMMAR: Mapping[str, Mapping[str, Any]] = {"grammar": {**GREEDY, "grammar": GRAMMAR}}
"""For models that have a tokenizer of their own."""


class Stopwatch:
    """Times the steps of batches on an engine. `prompt_of` returns the prompt for a number."""

    def __init__(self, engine: Engine, prompt_of: Callable[[int], str]) -> None:
        self._engine = engine
        self._prompt_of = prompt_of

    def batch(self, rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """Processor seconds of each step of one batch, a row for each of these settings."""
        started: set[SequenceId] = set()

        def note(events: StepEvents) -> None:
            started.update(number for number, event in events if isinstance(event, Token))

        requests = [self._request(number, settings) for number, settings in enumerate(rows)]
        self._engine.submit(self._engine.encode(requests), note)
        while len(started) < len(rows):
            self._engine.step()
        times = []
        has_more = True
        while has_more:
            began = time.process_time()
            has_more = self._engine.step()
            times.append(time.process_time() - began)
        return times

    def _request(self, number: int, settings: Mapping[str, Any]) -> GenerationRequest:
        sampling = {name: value for name, value in settings.items() if name != "grammar"}
        request = text_request(self._prompt_of(number), max_tokens=STEPS + 1, ignore_eos=True, **sampling)
        return replace(request, grammar=settings.get("grammar"))

    def ratio(self, rows: Sequence[Mapping[str, Any]], rounds: int) -> tuple[float, float]:
        """How much longer a step takes than a greedy one, and how many seconds a greedy one takes."""
        greedy: list[float] = []
        other: list[float] = []
        for _ in range(rounds):
            greedy += self.batch([GREEDY] * len(rows))
            other += self.batch(rows)
        fast = percentile(greedy, FAST)
        return percentile(other, FAST) / fast, fast


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    torch.set_num_threads(1)
    if options.model:
        engine = _engine(options.model, options)
        watch = Stopwatch(engine, lambda number: f"{number} " + "and then the fox went on " * (PROMPT_TOKENS // 6))
        _measure(options.model, watch, {**SETTINGS, **WITH_GRAMMAR}, options)
        return
    for vocabulary in options.vocabulary:
        shape = SHAPES[vocabulary]
        with tempfile.TemporaryDirectory(prefix="bench-sampling-") as scratch:
            engine = _engine(str(write_checkpoint(shape, Path(scratch))), options)
        watch = Stopwatch(engine, functools.partial(prompt, shape, PROMPT_TOKENS))
        _measure(f"vocabulary {vocabulary:,}", watch, SETTINGS, options)


def _engine(model: str, options: argparse.Namespace) -> Engine:
    streams = max(16, *options.streams)
    return Engine.load(Config(model=model, max_streams=streams, context=1024, compile=options.compile))


def _measure(
    title: str, watch: Stopwatch, settings: Mapping[str, Mapping[str, Any]], options: argparse.Namespace
) -> None:
    for streams in [16] if options.one_row else options.streams:
        print(f"\n{title}, {streams} streams{', one of which has it' if options.one_row else ''}")
        watch.batch([GREEDY] * streams)  # fills the prefix cache
        for name, wanted in settings.items():
            if options.only and name not in options.only:
                continue
            rows = [wanted, *[GREEDY] * (streams - 1)] if options.one_row else [wanted] * streams
            ratio, greedy = watch.ratio(rows, options.rounds)
            print(f"{name:>22}: {ratio:6.3f} of a greedy step of {1e3 * greedy:.2f} ms", flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--vocabulary", type=int, choices=SHAPES, nargs="+", default=list(SHAPES))
    parser.add_argument("--model", help="a folder or GGUF file to measure with, instead of random weights")
    parser.add_argument("--only", choices=[*SETTINGS, *WITH_GRAMMAR], nargs="+", help="parameters (default: all)")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--one-row", action="store_true", help="sixteen streams, one of which uses each parameter")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of batches, a greedy one and another")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
