"""Every Triton kernel compiles to machine code for an H100. That needs Triton, and no GPU."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.triton_interpreter import IS_INTERPRETED

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(IS_INTERPRETED, reason="nothing is compiled in Triton's interpreter"),
    pytest.mark.timeout(300),  # ptxas takes seconds for a kernel
]

PACKAGE = "inference.decoders.gpu.kernels"
FILES = ("products", "elementwise", "rows", "prompts", "choice", "draw")
SHARED_MEMORY = 227 * 1024
"""Of an H100, for one program."""


class H100:
    """Stands in for the driver of a GPU."""

    def get_current_target(self) -> Any:
        return importlib.import_module("triton.backends.compiler").GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 90  # Triton keeps what it has compiled by this number: that of no GPU which other tests run on

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What a launch leaves, by the kernel's name: it is compiled as for a GPU on which kernels overlap, and not run."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    jit = importlib.import_module("triton.runtime.jit")
    monkeypatch.setattr(importlib.import_module("triton.runtime.driver").driver, "_active", H100())
    found: dict[str, Any] = {}
    run = jit.JITFunction.run

    def compile(kernel: Any, *args: Any, grid: Any, warmup: bool, **settings: Any) -> None:
        found[kernel.fn.__name__] = run(kernel, *args, grid=grid, warmup=True, **settings)

    monkeypatch.setattr(jit.JITFunction, "run", compile)
    for name in FILES:
        module = importlib.import_module(f"{PACKAGE}.{name}")
        if hasattr(module, "overlap"):
            monkeypatch.setattr(module, "overlap", lambda x: {"OVERLAPS": True, "launch_pdl": True})
    return found


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "dtype"),
    [(32, 4, 64, torch.bfloat16), (32, 8, 128, torch.bfloat16), (9, 3, 64, torch.float32)],
)
def test_every_kernel_compiles_for_an_h100(
    compiled: dict[str, Any], heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype
) -> None:
    kernels = importlib.import_module(PACKAGE)
    x, norm = torch.zeros(1, 576, dtype=dtype), torch.zeros(576, dtype=dtype)
    hidden = kernels.embed(torch.zeros(3, dtype=torch.int64), torch.zeros(50, 576, dtype=dtype))
    kernels.gate(kernels.rms_norm(hidden, norm, 1e-5))
    kernels.multiply(x, torch.zeros(96, 576, dtype=dtype), norm, bias=torch.zeros(96, dtype=dtype))
    kernels.multiply(x, torch.zeros(96, 576, dtype=dtype), norm, is_gated=True)
    qkv = torch.zeros(4, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
    cached = (torch.zeros(3, 3, 32, kv_heads, head_dim, dtype=dtype),) * 2
    angles, slots = torch.zeros(96, head_dim // 2), torch.zeros(4, dtype=torch.int64)
    of_layer = kernels.Heads(heads, 0.1, angles, angles, *[torch.zeros(head_dim, dtype=dtype)] * 2, 1e-5)
    kernels.attend_rows(qkv, cached, slots, slots, of_layer, parts=8)
    kernels.attend_chunks(qkv, cached, slots, slots, torch.zeros(2, 4, dtype=torch.int64), of_layer)
    kernels.most_likely(torch.zeros(2, 49152, dtype=dtype))
    for parts in (1, 8):
        settings, counts = torch.zeros(2, 5, dtype=torch.float64), torch.zeros(2, dtype=torch.int32)
        kernels.draw(torch.zeros(2, 49152, dtype=dtype), settings, counts, parts)
    every = {"_embed", "_gate", "_norm", "_multiply", "_attend_rows", "_merge", "_rotate", "_attend_chunks"}
    assert compiled.keys() == every | {"_most_likely", "_draw"}
    for name, kernel in compiled.items():
        assert len(kernel.asm["cubin"]) > 1000, name
        assert kernel.metadata.shared <= SHARED_MEMORY, name
