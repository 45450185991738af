"""Weights that are missing, or of another shape, are told by the names that they have in the user's files."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from config import Config
from engine import Engine
from interface.errors import LoadError
from study.architectures.checkpoints import small_model
from tests.support.checkpoint_folders import edit_json, load, save
from tests.support.gguf_files import write_gguf
from tests.support.gguf_models import CONFIGS
from tests.support.tiny_models import bpe_tokenizer, model_of

LARGE = 4000
"""Tokens of a vocabulary that makes the embedding and the head the largest part of a small model."""


def refusal(path: Path) -> str:
    with pytest.raises(LoadError) as refused:
        load(path)
    return str(refused.value)


def without(path: Path, is_left_out: Callable[[str], bool]) -> None:
    """Take weights out of a file."""
    kept = {name: weight for name, weight in load_file(path).items() if not is_left_out(name)}
    save_file(kept, path, {"format": "pt"})


@pytest.mark.parametrize("model_type", ["llama", "qwen3_moe", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("vocabulary", [320, LARGE])
def test_a_head_that_is_missing_is_named_with_the_setting_for_models_without_one(
    model_type: str, vocabulary: int, tmp_path: Path
) -> None:
    folder = save(tmp_path, small_model(model_type, vocab_size=vocabulary))
    without(folder / "model.safetensors", lambda name: name in ("lm_head.weight", "embed_out.weight"))
    assert (
        "lm_head.weight is missing. If the head of this model is its embedding, config.json should say so with "
        "tie_word_embeddings: true." in refusal(folder)
    )


@pytest.mark.parametrize(
    ("model_type", "first", "number"),
    [
        ("llama", "model.layers.3.input_layernorm.weight", 9),
        ("gpt_neox", "gpt_neox.layers.3.attention.dense.bias", 12),  # transformers has another name for its head
        ("qwen3_moe", "model.layers.3.input_layernorm.weight", 11),  # and makes tensors of its own of the experts
    ],
)
def test_of_many_that_are_missing_the_first_are_named(model_type: str, first: str, number: int, tmp_path: Path) -> None:
    folder = save(tmp_path, small_model(model_type))
    without(folder / "model.safetensors", lambda name: ".layers.3." in name)
    assert f"{number} weights are missing: {first}, " in refusal(folder)
    assert f" and {number - 4} more. Is it the config.json of these weights, " in refusal(folder)


@pytest.mark.parametrize(
    ("changed", "name", "came", "expected"),
    [
        ({"vocab_size": 321}, "lm_head.weight", (320, 32), (321, 32)),
        ({"vocab_size": LARGE}, "lm_head.weight", (320, 32), (LARGE, 32)),
        ({"intermediate_size": 1000}, "model.layers.0.mlp.down_proj.weight", (32, 48), (32, 1000)),
    ],
)
def test_weights_of_another_shape_are_named_with_both_shapes(
    changed: dict[str, object], name: str, came: tuple[int, ...], expected: tuple[int, ...], tmp_path: Path
) -> None:
    folder = save(tmp_path, small_model("llama"))
    edit_json(folder / "config.json", **changed)
    assert (
        f" weights are of another shape than config.json says: {name}, for one, is {came}; expected {expected}. "
        in refusal(folder)
    )


@pytest.mark.parametrize(("layers", "names"), [(4, "9 weights are missing: blk.3."), (20, ": blk.10.attn_k.weight, ")])
def test_the_tensors_that_a_gguf_file_lacks_have_its_own_names(layers: int, names: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", model_of(CONFIGS["llama"]), bpe_tokenizer(), llama__block_count=layers)
    assert names in refusal(path)


def test_of_tensors_that_make_one_weight_the_one_that_is_missing_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", model_of(CONFIGS["qwen3moe"]), bpe_tokenizer())
    path.write_bytes(path.read_bytes().replace(b"blk.1.ffn_up_exps", b"blk.1.fxx_up_exps", 1))
    assert "blk.1.ffn_up_exps.weight is missing, and " in refusal(path)


# --- Space that was reserved, and not filled --------------------------------------------------------------------------

ASKED = "is the download complete?"


@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_file_that_ends_in_zeros_is_told_at_the_start(
    is_compiled: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_gguf(tmp_path / "model.gguf", model_of(CONFIGS["llama"]), bpe_tokenizer())
    load(path, compile=is_compiled)
    assert ASKED not in caplog.text
    content = path.read_bytes()
    rest = len(content) // 2
    path.write_bytes(content[:-rest] + bytes(rest))
    load(path, compile=is_compiled)
    assert re.search(r"model\.gguf: nothing but zeros in blk\.1\..* and \d more: is the download complete", caplog.text)


def test_a_matrix_of_zeros_in_a_folder_is_told_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save(tmp_path, small_model("llama"))
    load(folder)
    assert ASKED not in caplog.text
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"].zero_()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    load(folder)
    assert f"{folder}: nothing but zeros in model.layers.2.mlp.up_proj.weight: {ASKED}" in caplog.text


@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_model_that_says_nothing_about_any_token_is_refused(is_compiled: bool, tmp_path: Path) -> None:
    model = model_of(CONFIGS["llama"])
    torch.nn.init.zeros_(model.lm_head.weight)
    path = write_gguf(tmp_path / "model.gguf", model, bpe_tokenizer())
    with pytest.raises(LoadError, match=r"by itself gives logits that are all 0\. Are its files complete"):
        Engine.load(Config(model=str(path), device="cpu", compile=is_compiled))


def test_a_scale_of_zero_is_told_as_what_makes_all_logits_zero(tmp_path: Path) -> None:
    folder = save(tmp_path, small_model("cohere", logit_scale=0.0))
    with pytest.raises(LoadError, match=r"logits that are all 0\. .* no scale in its configuration 0 \(logit_scale, "):
        Engine.load(Config(model=str(folder), device="cpu"))
