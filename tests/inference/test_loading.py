"""Loading a checkpoint from a folder: what may be wrong with one is told in a line, without a traceback."""

import gc
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from config import BUNDLED_MODEL, Config
from engine import Engine
from inference.weights.checkpoint import load_checkpoint
from interface.request import LoadError
from serving.status import load_engine
from tests.support.native_models import model_named
from tests.support.tiny_models import CONTEXT, SPECIAL_TOKENS, byte_tokenizer, random_model, reference

Damage = Callable[[Path], None]


def save(folder: Path, model: PreTrainedModel) -> Path:
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


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


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


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
def test_the_file_is_let_go_once_its_weights_are_packed(
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
    assert checkpoint.eos_ids
    assert not checkpoint.model.training


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
    assert load(sound_folder).context == CONTEXT
    assert load(sound_folder, context=50).context == 50
    assert load(sound_folder, context=CONTEXT).context == CONTEXT


def test_a_long_context_is_taken_only_when_asked_for(tmp_path: Path) -> None:
    model = random_model("llama")
    model.config.max_position_embeddings = 100_000
    long_folder = save(tmp_path, model)
    assert load_checkpoint(Config(model=str(long_folder), device="cpu")).context == 4096
    assert load_checkpoint(Config(model=str(long_folder), device="cpu", context=50_000)).context == 50_000


@pytest.mark.parametrize(
    ("in_generation_config", "eos_ids"), [(7, {7}), ([7, 9], {7, 9}), (None, {SPECIAL_TOKENS.index("<eos>")})]
)
def test_the_generation_config_says_what_ends_a_text_or_else_the_tokenizer(
    folder: Path, in_generation_config: object, eos_ids: set[int]
) -> None:
    edit_json(folder / "tokenizer_config.json", eos_token="<eos>")
    edit_json(folder / "generation_config.json", eos_token_id=in_generation_config)
    assert set(load_checkpoint(Config(model=str(folder), device="cpu")).eos_ids) == eos_ids


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


@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such-folder"])
def test_a_folder_that_is_not_there(name: str) -> None:
    with pytest.raises(LoadError, match=rf"^{name}: expected a folder with a config.json, found none$"):
        load_checkpoint(Config(model=name, device="cpu"))


def test_a_name_that_is_neither_a_folder_nor_fit_for_the_hub() -> None:
    with pytest.raises(LoadError, match=r"^my model: no|^my model \(no folder here, so taken for a hub name\): cannot"):
        load_checkpoint(Config(model="my model", device="cpu"))


def test_a_context_that_is_larger_than_the_models(sound_folder: Path) -> None:
    with pytest.raises(LoadError, match=f"^context {CONTEXT + 1}: the model was made for at most {CONTEXT} tokens$"):
        load(sound_folder, context=CONTEXT + 1)


@pytest.mark.parametrize("device", ["cuda:99", "cuda:100"])
def test_a_device_that_is_not_there(sound_folder: Path, device: str) -> None:
    with pytest.raises(LoadError, match=rf"^device {device}: this machine offers torch \d+ CUDA devices"):
        load_checkpoint(Config(model=str(sound_folder), device=device))


def cut_weights(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 5000)


def empty_weights(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 0)


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def spoil_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def spoil_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')


def name_an_unknown_architecture(folder: Path) -> None:
    edit_json(folder / "config.json", model_type="no-such-model")


def name_another_kind_of_model(folder: Path) -> None:
    edit_json(folder / "config.json", model_type="t5")


@pytest.mark.parametrize(
    "damage",
    [
        cut_weights,
        empty_weights,
        remove_weights,
        spoil_config,
        spoil_tokenizer,
        name_an_unknown_architecture,
        name_another_kind_of_model,
    ],
)
def test_a_broken_checkpoint_is_told_in_one_line(folder: Path, damage: Damage) -> None:
    damage(folder)
    with pytest.raises(LoadError) as refused:
        load(folder)
    assert str(refused.value).startswith(f"{folder}: cannot be loaded as a causal language model: ")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


def test_a_checkpoint_without_a_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(LoadError, match=r"its tokenizer has no tokens; expected a tokenizer\.json beside config"):
        load(folder)


@pytest.mark.parametrize("change", [{"n_layer": 4}, {"n_embd": 64}, {"vocab_size": 400}], ids=str)
def test_weights_that_do_not_fit_the_config_are_not_made_up(folder: Path, change: dict[str, object]) -> None:
    edit_json(folder / "config.json", **change)
    with pytest.raises(LoadError, match=r"\d+ weights are missing or of another shape than config.json says"):
        load(folder)
