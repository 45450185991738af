"""How long a GPU takes to choose a step's tokens: in the kernel that draws them, and in that of the greedy choice.

    python -m study.benchmarks.bench_draw

It prints the microseconds of the kernel itself, as torch's profiler counts them, for logits that are nearly level, as
those of random weights are, and for peaked ones, as a trained model's are: the mean of four sets of random logits.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from study.common.arguments import argument_parser

VOCABULARIES = (32_000, 49_152, 151_936)
ROWS = (1, 4, 16, 64)
SEEDS = range(4)
LAUNCHES = 10
LEVEL, PEAKED = 1.0, 4.0
"""Standard deviations of the logits."""
KINDS: dict[str, tuple[float, tuple[float, ...]]] = {
    "level": (LEVEL, (0.7, 0, 0, 0.9)),  # temperature, min_p, top_k, top_p
    "peaked": (PEAKED, (0.7, 0, 0, 0.9)),
    "top_k 40 too": (LEVEL, (0.7, 0, 40, 0.9)),
    "no limits": (LEVEL, (0.7, 0, 0, 1.0)),
}


def microseconds(choose: Callable[[], Tensor]) -> float:
    """A kernel's own time, without that between two kernels: the mean of some launches, after two."""
    for _ in range(2):
        choose()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(LAUNCHES):
            choose()
        torch.cuda.synchronize()
    own = [row.self_device_time_total for row in profile.key_averages() if row.key in ("_draw", "_most_likely")]
    return float(sum(own)) / LAUNCHES


def measure(rows: int, vocabulary: int) -> dict[str, float]:
    """Microseconds by kind, with `LEVEL` logits for the greedy choice."""
    from inference.decoders.gpu import kernels  # they need Triton

    found = dict.fromkeys([*KINDS, "greedy"], 0.0)
    for seed in SEEDS:
        torch.manual_seed(seed)
        logits = torch.randn(rows, vocabulary, device="cuda")
        for kind, (width, settings) in KINDS.items():
            scaled = (logits * width).bfloat16()
            of_rows = [[*settings, (0.13 + 0.31 * row + 0.2 * seed) % 1] for row in range(rows)]
            pinned = torch.tensor(of_rows, dtype=torch.float64).pin_memory()

            def draw(scaled: Tensor = scaled, pinned: Tensor = pinned) -> Tensor:
                return kernels.draw(scaled, pinned, torch.zeros(rows, dtype=torch.int32, device="cuda"))

            found[kind] += microseconds(draw) / len(SEEDS)
        level = logits.bfloat16()
        found["greedy"] += microseconds(lambda level=level: kernels.most_likely(level)) / len(SEEDS)  # type: ignore[misc]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    argument_parser(__doc__).parse_args(arguments)
    from inference.decoders.gpu.kernels import overlap

    overlap.OVERLAPS = False  # a kernel that has begun early would count its waiting
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: microseconds")
    for vocabulary in VOCABULARIES:
        for rows in ROWS:
            times = ", ".join(f"{kind} {time:.0f}" for kind, time in measure(rows, vocabulary).items())
            print(f"{vocabulary:>7} tokens x {rows:>2} rows: {times}", flush=True)


if __name__ == "__main__":
    main()
