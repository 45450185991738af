"""The cache takes memory as it is used, and at most as much as the server announced."""

import dataclasses
import resource
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, MistralConfig

from config import Config
from inference import control_groups
from inference.cache.kv_cache import KVCache
from inference.weights import context, memory
from inference.weights.checkpoint import load_checkpoint
from inference.weights.context import CacheBudget, choose_context
from inference.weights.memory import free_memory
from interface.errors import LoadError, UnsupportedModel
from tests.support.checkpoint_folders import save
from tests.support.gguf_files import write_gguf
from tests.support.tiny_models import SHAPE, bpe_tokenizer, model_of, random_model, tiny_engine


def resident_bytes() -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    return 1024 * int(line.split()[1])


def test_a_cache_takes_memory_where_it_is_written_and_nowhere_else() -> None:
    cache = KVCache(slots=64, context=4096)
    before = resident_bytes()
    layer = cache.rows.layer(0, 8, 128, torch.bfloat16, torch.device("cpu"))
    assert cache.storage.bytes > 1_000_000_000
    assert resident_bytes() - before < 50_000_000
    layer.keys[3, :, :100] = 1
    layer.values[3, :, :100] = 1
    assert resident_bytes() - before < 60_000_000
    assert not layer.keys[4].any()


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2", "gemma3", "mistral", "qwen2_moe"])
def test_what_the_cache_is_said_to_take_is_what_it_takes(architecture: str) -> None:
    length, config = 400, random_model(architecture).config
    cache = tiny_engine(architecture, context=length, max_streams=3, compile=False)._runner._cache
    budget = CacheBudget.of(config, torch.float32, torch.device("cpu"), slots=3, weight_bytes=0)
    assert budget.bytes_for(length) == cache.storage.bytes


def test_a_context_beyond_the_windows_costs_nothing_more() -> None:
    config = MistralConfig(sliding_window=4096, max_position_embeddings=32_768)
    budget = CacheBudget.of(config, torch.bfloat16, torch.device("cpu"), slots=16, weight_bytes=0)
    enough = dataclasses.replace(budget, free_bytes=budget.bytes_for(5000))
    assert choose_context(None, config, enough) == 32_768
    short = dataclasses.replace(budget, free_bytes=budget.bytes_for(2100))
    assert choose_context(None, config, short) == 2048


def test_the_decoder_in_cpp_keeps_what_is_behind_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = MistralConfig(**SHAPE | {"max_position_embeddings": 50_000}, num_key_value_heads=1, sliding_window=8)
    folder = save(tmp_path, model_of(config))
    monkeypatch.setattr(context, "free_memory", lambda device: 4_000_000)
    forgetting, keeping = (
        load_checkpoint(Config(model=str(folder), device="cpu", compile=how, max_streams=1)).context
        for how in (False, True)
    )
    assert forgetting == 50_000
    assert 512 < keeping < 10_000


def test_a_cache_that_does_not_fit_the_memory_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: object) -> torch.Tensor:
        raise MemoryError("Unable to allocate 22.4 TiB")

    monkeypatch.setattr("inference.cache.rows.zeros", too_large)
    with pytest.raises(UnsupportedModel, match=r"3 streams of 100 tokens does not fit .*ENGINE_MAX_STREAMS"):
        tiny_engine("llama", context=100, max_streams=3)


def write_model(folder: Path) -> Path:
    """A GGUF file of quantized blocks, of a long context."""
    model = model_of(LlamaConfig(**SHAPE | {"hidden_size": 64, "intermediate_size": 96, "num_key_value_heads": 1}))
    return write_gguf(folder / "model.gguf", model, bpe_tokenizer(), "Q4_0", llama__context_length=100_000)


def test_the_blocks_of_a_gguf_file_leave_more_memory_than_floats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path)
    monkeypatch.setattr(context, "free_memory", lambda device: 600_000)
    as_floats, as_blocks = (
        load_checkpoint(Config(model=str(path), device="cpu", compile=how, max_streams=1)).context
        for how in (False, True)
    )
    assert as_blocks > 1.3 * as_floats > 512


# --- What the control groups leave ------------------------------------------------------------------------------------

GIB = 2**30
STAT = "anon 5\nactive_file {}\ninactive_file {}\n"
STAT_V1 = "active_file 1\ninactive_file 1\ntotal_active_file {}\ntotal_inactive_file {}\n"


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(control_groups, "CGROUPS", tmp_path)
    monkeypatch.setattr(control_groups, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_available", lambda: 64 * GIB)
    return tmp_path


def limit(group: Path, files: dict[str, object]) -> None:
    group.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (group / name).write_text(f"{text}\n")


def free() -> int | None:
    return free_memory(torch.device("cpu"))


def test_a_container_has_what_its_limit_leaves_and_files_in_memory_count_as_free(groups: Path) -> None:
    stat = STAT.format(GIB, GIB // 2)
    limit(groups, {"memory.max": 4 * GIB, "memory.current": 3 * GIB, "memory.stat": stat})
    assert free() == 2.5 * GIB


def test_a_limit_of_any_group_above_holds_as_well(groups: Path) -> None:
    limit(groups / "system.slice", {"memory.max": 6 * GIB, "memory.current": GIB})
    limit(groups / "system.slice" / "engine.service", {"memory.max": "max", "memory.current": GIB})
    (groups / "own").write_text("0::/system.slice/engine.service\n")
    assert free() == 5 * GIB
    limit(groups / "system.slice" / "engine.service", {"memory.max": 2 * GIB})
    assert free() == GIB


def test_the_first_version_of_control_groups_is_understood(groups: Path) -> None:
    (groups / "own").write_text("5:cpu:/docker/1\n4:memory:/docker/1\n0::/\n")
    files = {"memory.limit_in_bytes": 3 * GIB, "memory.usage_in_bytes": GIB, "memory.stat": STAT_V1.format(0, GIB // 2)}
    limit(groups / "memory", files)  # as a container sees it that has a path of its host's
    assert free() == 2.5 * GIB


@pytest.fixture
def limited(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process may map 3 GiB, and has mapped one."""
    (groups / "statm").write_text(f"{GIB // resource.getpagesize()} 2 3 4 5 6 7\n")
    monkeypatch.setattr(memory, "STATM", groups / "statm")
    monkeypatch.setattr(resource, "getrlimit", lambda what: (3 * GIB, resource.RLIM_INFINITY))


@pytest.mark.usefixtures("limited")
def test_a_limit_of_this_process_holds_as_well(groups: Path) -> None:
    assert free() == 2 * GIB
    limit(groups, {"memory.max": 2 * GIB, "memory.current": GIB})
    assert free() == GIB


@pytest.mark.usefixtures("limited")
def test_weights_that_are_larger_than_the_limit_of_this_process_are_not_loaded(tmp_path: Path) -> None:
    config = Config(model=str(write_model(tmp_path)), device="cpu")
    assert load_checkpoint(config).context
    memory.STATM.write_text(f"{3 * GIB // resource.getpagesize()} 2 3 4 5 6 7\n")
    with pytest.raises(LoadError, match=r"weights take 0\.00 GiB, and the limit .*ulimit -v\) leaves 0\.00 GiB; raise"):
        load_checkpoint(config)


def test_without_limits_the_machine_s_memory_is_free(groups: Path) -> None:
    assert free() == 64 * GIB
    limit(groups, {"memory.max": "max", "memory.current": 1})
    assert free() == 64 * GIB
