"""The cache takes memory as it is used."""

from pathlib import Path

import torch

from inference.cache.kv_cache import KVCache


def resident_bytes() -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    return 1024 * int(line.split()[1])


def test_a_cache_takes_memory_where_it_is_written_and_nowhere_else() -> None:
    cache = KVCache(slots=64, context=4096)
    before = resident_bytes()
    layer = cache.layer(0, 8, 128, torch.bfloat16, torch.device("cpu"))
    assert cache.bytes > 1_000_000_000
    assert resident_bytes() - before < 50_000_000
    layer.keys[3, :, :100] = 1
    layer.values[3, :, :100] = 1
    assert resident_bytes() - before < 60_000_000
    assert not layer.keys[4].any()
