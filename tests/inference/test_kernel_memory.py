"""The memory that oneDNN keeps for each number of tokens is bounded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import torch
from inference.decoders.linear import Linear
torch.set_num_threads(1)
linear = Linear(torch.zeros(4096, 64, dtype=torch.bfloat16), None)
print(linear.is_packed)
def resident():
    return 4096 * int(open("/proc/self/statm").read().split()[1])
with torch.inference_mode():
    for tokens in range(64, 128):
        linear(torch.zeros(tokens, 64, dtype=torch.bfloat16))
    before = resident()
    for tokens in range(128, 256):
        linear(torch.zeros(tokens, 64, dtype=torch.bfloat16))
print(resident() - before)
"""


def growth(**environ: str) -> int | None:
    """Bytes that 128 more numbers of tokens take; None where matrices are not packed."""
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("CACHE_CAPACITY")}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=inherited | environ, capture_output=True, text=True, timeout=100
    )
    packed, grown = run.stdout.split()
    return int(grown) if packed == "True" else None


def test_memory_does_not_grow_with_every_number_of_tokens() -> None:
    bounded = growth()
    if bounded is None:
        pytest.skip("this processor gains nothing from packed matrices")
    unbounded = growth(LRU_CACHE_CAPACITY="1024", ONEDNN_PRIMITIVE_CACHE_CAPACITY="1024")
    assert unbounded is not None
    assert bounded < unbounded / 3, (bounded, unbounded)
