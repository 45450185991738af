"""What a grammar costs: steps of sixteen streams, some of which have a JSON schema, compared with steps without.

    python -m study.benchmarks.bench_grammar
    python -m study.benchmarks.bench_grammar --model HuggingFaceTB/SmolLM2-135M-Instruct

The measure is the processor time of the fastest steps, since other programs on the machine cannot make these longer.
Batches with grammars and without take turns.
"""

import argparse
import json
import time
from collections.abc import Sequence

import torch

from config import BUNDLED_MODEL, Config
from engine import Engine
from interface.engine import StepEvents
from interface.events import Token
from interface.requests import GenerationRequest, Grammar, SamplingParams, SequenceId, TextPrompt
from study.common.arguments import argument_parser
from study.common.client import percentile

STREAMS = 16
STEPS = 60
FAST = 10
PERSON = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
SCHEMA = {"type": "array", "minItems": 100, "items": {**PERSON, "required": ["name", "age"]}}
"""An answer to it takes more than `STEPS` tokens."""
GRAMMAR = Grammar("json_schema", json.dumps(SCHEMA))


def batch(engine: Engine, constrained: int) -> list[float]:
    """Processor seconds of each step of one batch, of which so many rows have a grammar."""
    started: set[SequenceId] = set()

    def note(events: StepEvents) -> None:
        started.update(number for number, event in events if isinstance(event, Token))

    params = SamplingParams(max_tokens=STEPS, temperature=0.7, seed=1, ignore_eos=True)
    requests = [
        GenerationRequest(TextPrompt(f"Tell me {row} stories."), params, GRAMMAR if row < constrained else None)
        for row in range(STREAMS)
    ]
    engine.submit(engine.encode(requests), note)
    while len(started) < STREAMS:
        engine.step()
    times = []
    has_more = True
    while has_more:
        began = time.process_time()
        has_more = engine.step()
        times.append(time.process_time() - began)
    return times


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--model", default=str(BUNDLED_MODEL))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    config = Config(model=options.model, device="cpu", max_streams=STREAMS, context=512, compile=options.compile)
    engine = Engine.load(config)
    times: dict[int, list[float]] = {constrained: [] for constrained in (0, 1, STREAMS)}
    for constrained in times:
        batch(engine, constrained)  # compiles the grammar
    for _ in range(options.rounds):
        for constrained, durations in times.items():
            durations += batch(engine, constrained)
    plain = percentile(times[0], FAST)
    print(f"{STREAMS} streams without a grammar: a step takes {1e3 * plain:.2f} ms")
    for constrained in (1, STREAMS):
        print(f"{constrained:>2} of them with one: {percentile(times[constrained], FAST) / plain:.3f} of that")


if __name__ == "__main__":
    main()
