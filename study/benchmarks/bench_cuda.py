"""How fast the engine is on a GPU, and against transformers' own `generate` on the same one.

    python -m study.benchmarks.bench_cuda                        # the 1.1B shape in bfloat16, random weights
    python -m study.benchmarks.bench_cuda --shape 135M --variants torch graphs kernels ahead
    python -m study.benchmarks.bench_cuda --profile              # also what the GPU does in a step

The engine runs in this process, so that steps are measured and no socket. The variants build on each other:
"torch" is the engine uncompiled; "graphs" replays the decode steps of the same operators; "kernels" has kernels of its
own (ENGINE_COMPILE=1, but for the last); "ahead" begins a step before the host has the last one's tokens, draws them
in one kernel, and is what ENGINE_COMPILE=1 does. With --sampling, it also runs with the draw in operators of torch, and
greedy steps are measured once more, on random tokens: greedy texts of random weights soon repeat the same few tokens,
and the products of rows that are alike take less time.

The floor of a step is the time of reading every weight once, as fast as this GPU copies memory, bytes read and written
counted: measured in the same run. Every prompt is of 75 random tokens. Whether the tokens are right
is tested by `make test-cuda`.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from config import Config
from engine import Engine
from inference.cache.gpu_pages import GpuPages
from inference.decoders import select
from inference.decoders.ahead import Ahead
from inference.sampling import draw
from inference.sampling.draw import DeviceChooser
from inference.scheduling.sample_args import SampleArgs
from inference.tensor_thread import on_tensor_thread
from inference.weights.checkpoint import Checkpoint
from interface.events import Event, Token
from interface.requests import SequenceId, text_request
from study.benchmarks.shapes import SHAPES, bytes_per_step, prompt, tokenizer
from study.common.arguments import argument_parser
from study.common.client import percentile

Row = dict[str, Any]
PROMPT_TOKENS = 75
GREEDY: Row = {"temperature": 0}
SAMPLED: Row = {"temperature": 0.7, "top_p": 0.9}
VARIANTS = ("torch", "graphs", "kernels", "ahead")
_seeds = itertools.count()


def copy_speed() -> float:
    """Bytes per second that this GPU copies, those read and those written: the best of a few copies of 2 GiB."""
    source, target = torch.empty(2, 2**31, dtype=torch.uint8, device="cuda")
    seconds = []
    for _ in range(8):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        seconds.append(begin.elapsed_time(end) / 1e3)
    return float(2 * source.numel() / min(seconds))


def new_model(shape: str) -> PreTrainedModel:
    """The shape with random weights, made on the GPU."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(SHAPES[shape], dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    nn.Module.eval(model)
    return model


def new_engine(shape: str, variant: str, streams: int, chunk: int | None) -> Engine:
    """An engine with the optimizations of `variant` and of the variants before it."""
    has_kernels = select.has_kernels
    if variant == "graphs":
        select.has_kernels = lambda device: False
    try:
        checkpoint = Checkpoint(new_model(shape), tokenizer(shape), SHAPES[shape].max_position_embeddings)
        engine = Engine(
            checkpoint, Config(max_streams=streams, compile=variant != "torch", prefill_chunk=chunk, device="cuda")
        )
    finally:
        select.has_kernels = has_kernels
    if variant != "ahead":
        engine._runner._ahead, engine._runner._choose = None, draw.choose
    return engine


class Load:
    """Streams that start at once on an engine, and when their tokens came."""

    def __init__(self, engine: Engine, shape: str, streams: int, tokens: int, size: int, settings: Row) -> None:
        self.engine = engine
        self.streams = streams
        self.times: dict[SequenceId, list[float]] = {}
        texts = [prompt(shape, size, next(_seeds)) for _ in range(streams)]
        requests = [text_request(text, max_tokens=tokens, ignore_eos=True, **settings) for text in texts]
        encoded = engine.encode(requests)
        self.began = time.perf_counter()
        engine.submit(encoded, self._note)

    def _note(self, events: Sequence[tuple[SequenceId, Event]]) -> None:
        now = time.perf_counter()
        for number, event in events:
            if isinstance(event, Token):
                self.times.setdefault(number, []).append(now)

    def run(self) -> Row:
        """Step to the end: times to first token, and the time of a step with every stream in it."""
        has_more = True
        while len(self.times) < self.streams:
            has_more = self.engine.step()
        steps = []
        while has_more:
            began = time.perf_counter()
            has_more = self.engine.step()
            steps.append(time.perf_counter() - began)
        firsts = [times[0] - self.began for times in self.times.values()]
        seconds = max(times[-1] for times in self.times.values()) - self.began
        step = statistics.mean(steps[4:-4])  # the mean: work of one step may be left to the next
        return {
            "streams": self.streams,
            "step_ms": 1e3 * step,
            "decode_tok_s": self.streams / step,
            "tok_s": sum(len(times) for times in self.times.values()) / seconds,
            "ttft_p50_ms": 1e3 * percentile(firsts, 50),
            "ttft_max_ms": 1e3 * max(firsts),
        }


def profiled(engine: Engine, shape: str, streams: int, steps: int = 10) -> None:
    """Print what the GPU does in a decode step."""
    load = Load(engine, shape, streams, 60, PROMPT_TOKENS, GREEDY)
    began = time.perf_counter()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        while len(load.times) < streams:
            engine.step()
        torch.cuda.synchronize()
    whole = sum(row.self_device_time_total for row in profile.key_averages())
    print(
        f"    the GPU's work until all have a token: {whole / 1e3:.1f} of {1e3 * (time.perf_counter() - began):.1f} ms"
    )
    for _ in range(10):
        engine.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(steps):
            engine.step()
        torch.cuda.synchronize()
    load.run()
    rows = sorted(profile.key_averages(), key=lambda row: -row.self_device_time_total)
    whole = sum(row.self_device_time_total for row in rows)
    count = sum(row.count for row in rows)
    print(f"    the GPU's work in a step of {streams}: {whole / steps:.0f} µs in {count / steps:.0f} kernels")
    for row in rows[:14]:
        per_step = row.self_device_time_total / steps
        print(f"    {per_step:9.1f} µs {row.count / steps:7.1f} x {row.key[:90]}", flush=True)


def generated(model: PreTrainedModel, streams: int, tokens: int) -> Row:
    """Transformers' own `generate` on so many prompts at once."""
    ids = torch.randint(1, 1000, (streams, PROMPT_TOKENS), device="cuda")

    def run(count: int) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        model.generate(  # type: ignore[operator]
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
        )
        torch.cuda.synchronize()
        return time.perf_counter() - began

    run(4)
    first, whole = run(1), run(tokens)
    step = (whole - first) / (tokens - 1)
    return {
        "streams": streams,
        "step_ms": 1e3 * step,
        "decode_tok_s": streams / step,
        "tok_s": streams * tokens / whole,
        "ttft_p50_ms": 1e3 * first,
        "ttft_max_ms": 1e3 * first,
    }


def _print(what: str, row: Row, floor: float) -> Row:
    print(
        f"{what:>28} {row['streams']:>3} streams: step {row['step_ms']:8.3f} ms ({floor / row['step_ms']:.2f} of the "
        f"floor), {row['decode_tok_s']:8.0f} tok/s decoding, {row['tok_s']:8.0f} in all, TTFT p50 "
        f"{row['ttft_p50_ms']:7.1f} max {row['ttft_max_ms']:7.1f}",
        flush=True,
    )
    return {"what": what, **row}


def _most_memory(engine: Engine) -> int:
    """Bytes: torch's, and those of a cache that gets its memory from the driver and gives none back."""
    storage = engine._runner._cache.storage
    return torch.cuda.max_memory_allocated() + (storage.backed_bytes if isinstance(storage, GpuPages) else 0)


class RandomTexts:
    """Chooses greedily on the GPU, and then takes random tokens in place of those."""

    def __init__(self, vocabulary: int, streams: int) -> None:
        from inference.decoders.gpu import kernels  # they need Triton

        self._choose = kernels.most_likely
        self._tokens = torch.randint(vocabulary, (1024, streams), device="cuda")
        self._step = 0

    def __call__(self, logits: Tensor, rows: Sequence[SampleArgs]) -> Tensor:
        self._choose(logits)
        self._step += 1
        return self._tokens[self._step % len(self._tokens), : len(rows)]


def _in_turn(engine: Engine, variant: str, streams: int, options: argparse.Namespace, floor: float) -> list[Row]:
    """Greedy and, if asked for, sampled loads, in turn: of each kind the round with the median step."""
    kinds: dict[str, tuple[Row, DeviceChooser | None]] = {variant: (GREEDY, None)}
    ahead = engine._runner._ahead
    if options.sampling:
        kinds[f"{variant}, top_p"] = SAMPLED, None
        if ahead is not None:
            kinds[f"{variant}, random texts"] = GREEDY, RandomTexts(engine._runner.vocabulary, streams)
            kinds[f"{variant}, top_p in torch"] = SAMPLED, draw.choose_on_device
    rows: dict[str, list[Row]] = {what: [] for what in kinds}
    for _ in range(options.rounds):
        for what, (settings, chooser) in kinds.items():
            with _choosing(ahead, chooser):
                Load(engine, options.shape, streams, 12, PROMPT_TOKENS, settings).run()
                load = Load(engine, options.shape, streams, options.tokens, PROMPT_TOKENS, settings)
                rows[what].append(load.run())
    return [_print(what, _median(of_kind), floor) for what, of_kind in rows.items()]


@contextmanager
def _choosing(ahead: Ahead | None, chooser: DeviceChooser | None) -> Iterator[None]:
    """Let another chooser choose for a while, if there is one."""
    if ahead is None or chooser is None:
        yield
        return
    own, ahead._choose_on_device = ahead._choose_on_device, chooser
    try:
        yield
    finally:
        ahead._choose_on_device = own


def _median(rows: Sequence[Row]) -> Row:
    """The row whose step is the median; of two, the shorter."""
    return sorted(rows, key=lambda row: row["step_ms"])[(len(rows) - 1) // 2]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    on_tensor_thread(lambda: _measure(options))  # as in a server, no step hops from thread to thread


def _measure(options: argparse.Namespace) -> None:
    shape = options.shape
    speed = copy_speed()
    floor = 1e3 * bytes_per_step(shape) / speed
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"{shape}: {bytes_per_step(shape) / 1e9:.2f} GB of weights at {speed / 1e9:.0f} GB/s: {floor:.3f} ms a step")
    rows: list[Row] = []
    for variant in options.variants:
        began = time.perf_counter()
        engine = new_engine(shape, variant, max(options.streams), options.chunk)
        print(f"{variant}: {engine._runner.decoder_name}; ready after {time.perf_counter() - began:.1f} s", flush=True)
        for streams in options.streams:
            rows += _in_turn(engine, variant, streams, options, floor)
        if options.long:
            load = Load(engine, shape, 1, 64, options.long, GREEDY)
            rows.append(_print(f"{variant}, {options.long} tokens", load.run(), floor))
        if options.profile:
            for streams in (options.streams[0], options.streams[-1]):
                profiled(engine, shape, streams)
        print(f"    {_most_memory(engine) / 1e9:.2f} GB at most", flush=True)
        del engine
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if options.peer:
        model = new_model(shape)
        for streams in (1, max(options.streams)):
            rows.append(_print("transformers' generate", generated(model, streams, 32), floor))
    if options.results:
        report = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "shape": shape, "floor_ms": floor}
        options.results.write_text(json.dumps({**report, "rows": rows}, indent=2) + "\n")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="1.1B")
    parser.add_argument("--variants", choices=VARIANTS, nargs="+", default=["ahead"])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--tokens", type=int, default=128, help="that each stream takes")
    parser.add_argument("--chunk", type=int, help="ENGINE_PREFILL_CHUNK")
    parser.add_argument("--long", type=int, default=0, help="also one stream behind a prompt of so many tokens")
    parser.add_argument("--rounds", type=int, default=5, help="of loads in turn, whose median counts")
    parser.add_argument("--sampling", action="store_true", help="also with temperature and top_p")
    parser.add_argument("--profile", action="store_true", help="print what the GPU does in a step")
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, default=True, help="transformers' generate")
    parser.add_argument("--results", type=Path, help="write the figures there, as JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
