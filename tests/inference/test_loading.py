"""Loading a checkpoint from a folder: each fault is one line, without a traceback."""

import dataclasses
import errno
import gc
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, WhisperConfig

from backends.own_engine import load_engine
from config import BUNDLED_MODEL, Config
from engine import Engine
from inference import tensor_thread
from inference.weights import context as context_module
from inference.weights.checkpoint import load_checkpoint
from inference.weights.context import choose_context
from interface.errors import LoadError
from tests.support.checkpoint_folders import edit_json, save
from tests.support.native_models import model_named
from tests.support.tiny_models import CONTEXT, SPECIAL_TOKENS, random_model, reference, transformers_model

EOS, MARK = SPECIAL_TOKENS.index("<eos>"), SPECIAL_TOKENS.index("<mark>")


@pytest.fixture(scope="module")
def sound_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2, whose config says n_positions where others say max_position_embeddings."""
    return save(tmp_path_factory.mktemp("sound"), random_model("gpt2"))


@pytest.fixture
def folder(sound_folder: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(sound_folder, tmp_path / "model"))


def load(folder: Path, **settings: Any) -> Engine:
    return Engine.load(Config(model=str(folder), device="cpu", **settings))


# --- What is loaded ---------------------------------------------------------------------------------------------------


def test_a_folder_is_loaded_and_says_what_the_model_in_it_says(sound_folder: Path) -> None:
    answer = load(sound_folder).generate("hello", max_tokens=9, temperature=0)
    assert answer["token_ids"] == reference("gpt2", "hello", 9)


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="only Linux lists what is mapped there")
@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        (torch.bfloat16, {}),
        *(
            (dtype, how)
            for dtype in (torch.bfloat16, torch.float32)
            for how in ({"compile": True}, {"quantize": "int8"})
        ),
    ],
    ids=str,
)
def test_the_file_is_unmapped_once_its_weights_are_packed(
    dtype: torch.dtype, settings: dict[str, Any], tmp_path: Path
) -> None:
    if not settings and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("uncompiled, weights are packed only where oneDNN knows bfloat16")
    save(tmp_path, nn.Module.to(model_named("llama"), dtype))
    engine = load(tmp_path, **settings)
    gc.collect()
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert engine.generate("hello", max_tokens=3)["completion_tokens"] == 3


def test_a_relative_folder_is_a_folder_too(sound_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sound_folder.parent)
    for name in (sound_folder.name, f"./{sound_folder.name}"):
        assert load_checkpoint(Config(model=name, device="cpu")).context == CONTEXT


def test_the_bundled_model_is_the_default() -> None:
    checkpoint = load_checkpoint(Config(device="cpu"))
    assert Path(Config().model) == BUNDLED_MODEL
    assert checkpoint.generation.eos_ids
    assert not transformers_model(checkpoint).training


@pytest.mark.parametrize(
    ("of_checkpoint", "wanted", "loaded"),
    [
        (torch.float16, "auto", torch.float32),  # half precision is slow on a CPU
        (torch.float16, "float16", torch.float16),
        (torch.bfloat16, "auto", torch.bfloat16),
        (torch.bfloat16, "float32", torch.float32),
        (torch.float32, "auto", torch.float32),
        (torch.float32, "bfloat16", torch.bfloat16),
    ],
    ids=str,
)
def test_the_precision_is_the_checkpoints_own_but_for_float16_on_a_cpu(
    tmp_path: Path, of_checkpoint: torch.dtype, wanted: str, loaded: torch.dtype
) -> None:
    folder = save(tmp_path, random_model("llama").to(of_checkpoint))  # type: ignore[arg-type]
    assert load_checkpoint(Config(model=str(folder), device="cpu", dtype=wanted)).model.dtype == loaded


def test_the_context_is_the_models_own_or_what_was_asked_for(sound_folder: Path) -> None:
    assert load(sound_folder).info.context == CONTEXT
    assert load(sound_folder, context=50).info.context == 50
    assert load(sound_folder, context=CONTEXT).info.context == CONTEXT


@pytest.mark.parametrize(
    ("gibibytes", "context"),
    [(100, 100_000), (1, 43_520), (0.001, 512), (None, 4096)],
    ids=["much", "some", "none", "?"],
)
def test_a_long_context_is_served_as_far_as_half_of_the_free_memory_reaches(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    gibibytes: float | None,
    context: int,
) -> None:
    """In this model's cache, a token of one of the 32 streams takes 384 bytes."""
    free = None if gibibytes is None else int(gibibytes * 2**30)
    monkeypatch.setattr(context_module, "free_memory", lambda device: free)
    model = random_model("llama")
    model.config.max_position_embeddings = 100_000
    long_folder = save(tmp_path, model)
    caplog.set_level(logging.INFO, logger="engine")
    config = Config(model=str(long_folder), device="cpu", max_streams=32)
    assert load_checkpoint(config).context == pytest.approx(context, rel=0.01)
    assert f"Context of {load_checkpoint(config).context} tokens: the cache takes up to" in caplog.text
    assert ("The model's own context is 100000 tokens" in caplog.text) == (context < 100_000)
    assert load_checkpoint(dataclasses.replace(config, context=50_000)).context == 50_000


@pytest.mark.parametrize(
    ("generation", "model", "tokenizer", "eos_ids"),
    [
        (7, None, None, {7}),
        ([7, 9], None, None, {7, 9}),
        (None, 8, None, {8}),
        (None, None, "<eos>", {EOS}),
        ([7, 9], 8, "<eos>", {7, 8, 9, EOS}),
        ("<mark>", [8, "<eos>"], None, {MARK, 8, EOS}),
        (None, None, None, set()),
    ],
)
def test_every_token_that_any_of_the_files_names_ends_a_text(
    folder: Path, generation: object, model: object, tokenizer: str | None, eos_ids: set[int]
) -> None:
    edit_json(folder / "tokenizer_config.json", eos_token=tokenizer)
    edit_json(folder / "config.json", eos_token_id=model)
    edit_json(folder / "generation_config.json", eos_token_id=generation)
    assert load_checkpoint(Config(model=str(folder), device="cpu")).generation.eos_ids == eos_ids


def test_what_the_files_do_not_say_is_not_taken_from_the_defaults_of_an_architecture(folder: Path) -> None:
    """A Llama's class says that token 2 ends a text; a model with other ends should not stop there too."""
    save(folder, random_model("llama"))
    path = folder / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "eos_token_id"}))
    edit_json(folder / "generation_config.json", eos_token_id=7)
    assert load_checkpoint(Config(model=str(folder), device="cpu")).generation.eos_ids == {7}


def test_the_models_own_sampling_defaults_are_those_of_its_generation_config(folder: Path) -> None:
    settings = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.01, "repetition_penalty": 1.1}
    edit_json(folder / "generation_config.json", **settings, do_sample=True, max_new_tokens=7)
    assert load_checkpoint(Config(model=str(folder), device="cpu")).generation.sampling_defaults == settings
    off = Config(model=str(folder), device="cpu", generation_config="off")
    assert load_checkpoint(off).generation.sampling_defaults == {}


def test_which_sampling_defaults_apply_is_said_in_one_line(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit_json(folder / "generation_config.json", temperature=0.6, top_k=20)
    with caplog.at_level("INFO", "engine"):
        load_checkpoint(Config(model=str(folder), device="cpu"))
    lines = [record.message for record in caplog.records if "Sampling" in record.message]
    assert lines == ["Sampling defaults of the model: temperature 0.6, top_k 20"]


@pytest.mark.parametrize(
    ("rope", "trained", "reach"),
    [
        ({"rope_type": "default"}, 100, 100),
        ({"rope_type": "linear", "factor": 4.0}, 100, 400),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}, 100, 400),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}, 400, 400),
        ({"rope_type": "yarn", "factor": 4.0}, 100, 400),
        (
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 50,
            },
            100,
            100,
        ),
    ],
)
def test_a_stretched_rotary_embedding_reaches_as_far_as_the_config_says(
    rope: dict[str, Any], trained: int, reach: int
) -> None:
    config = LlamaConfig(rope_parameters=rope | {"rope_theta": 10_000.0}, max_position_embeddings=trained)
    assert choose_context(None, config) == trained
    assert choose_context(reach, config) == reach
    with pytest.raises(LoadError, match=f"^ENGINE_CONTEXT: expected at most {reach} tokens, .*, got {reach + 1}$"):
        choose_context(reach + 1, config)


def test_a_model_reaches_no_further_than_its_table_of_positions_whatever_that_is_called() -> None:
    config = WhisperConfig(max_target_positions=448)
    assert choose_context(None, config) == 448
    with pytest.raises(LoadError, match="ENGINE_CONTEXT: expected at most 448 tokens"):
        choose_context(449, config)


def test_what_a_service_has_loaded_is_out_of_the_garbage_collectors_sight(sound_folder: Path) -> None:
    frozen = gc.get_freeze_count()
    try:
        load_engine(Config(model=str(sound_folder), device="cpu"))
        assert gc.get_freeze_count() > frozen + 10_000
        assert len(gc.get_objects()) < 10_000
    finally:
        gc.unfreeze()


def test_two_engines_of_one_folder_do_not_share_their_state(sound_folder: Path) -> None:
    one, other = load(sound_folder), load(sound_folder)
    one.generate("hello", max_tokens=3)
    assert other.counters().generated_tokens == 0
    assert other.generate("hello", max_tokens=3, temperature=0)["token_ids"] == reference("gpt2", "hello", 3)


# --- What cannot be loaded --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 56623104 bytes."),
        RuntimeError("can't start new thread"),
        LoadError("Model: cannot compute a text of 12 tokens by itself: could not create a primitive"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_lack_of_memory_is_reported_as_one(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: Config) -> Engine:
        raise error

    monkeypatch.setattr(Engine, "load", fail)
    with pytest.raises(LoadError, match="there is not enough memory to load it"):
        load_engine(Config())


def test_other_faults_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: Config) -> Engine:
        raise ImportError("cannot import name 'x'")

    monkeypatch.setattr(Engine, "load", fail)
    with pytest.raises(ImportError, match="cannot import name"):
        load_engine(Config())


def test_a_start_without_room_for_the_memory_that_is_kept_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception there ended the thread that everything else is computed on, and the start waited for ever."""
    monkeypatch.setattr(tensor_thread, "LARGE_BLOCK", 2**60)
    tensor_thread._keep_freed_memory()


@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such-folder"])
def test_a_folder_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(LoadError, match=rf"^{name}: expected a folder with a config.json or a GGUF file, found none$"):
        load_checkpoint(Config(model=name, device="cpu"))


def test_what_is_neither_a_folder_nor_a_file_is_not_opened(tmp_path: Path) -> None:
    """Opening a pipe would wait for its other end."""
    os.mkfifo(tmp_path / "model.gguf")
    with pytest.raises(LoadError, match=r"model\.gguf: expected a folder or a GGUF file, got another file$"):
        load_checkpoint(Config(model=str(tmp_path / "model.gguf"), device="cpu"))


def test_a_name_that_is_neither_a_folder_nor_fit_for_the_hub_is_refused() -> None:
    with pytest.raises(LoadError, match=r"^my model: no folder here, and no hub name; expected owner/name"):
        load_checkpoint(Config(model="my model", device="cpu"))


def test_a_context_that_is_larger_than_the_models(sound_folder: Path) -> None:
    with pytest.raises(LoadError, match=f"^ENGINE_CONTEXT: expected at most {CONTEXT} tokens, .*, got {CONTEXT + 1}$"):
        load(sound_folder, context=CONTEXT + 1)


@pytest.mark.parametrize("device", ["cuda:99", "cuda:100"])
def test_a_device_that_is_not_there_is_refused(sound_folder: Path, device: str) -> None:
    with pytest.raises(LoadError, match=rf"^device {device}: this machine offers torch \d+ CUDA devices"):
        load_checkpoint(Config(model=str(sound_folder), device=device))
