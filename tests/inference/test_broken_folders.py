"""A folder that cannot be served: one line names the file, the fault, and what to do."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig

from inference.weights.folder import Folder
from inference.weights.weight_checks import is_layer_of_mtp, reason
from interface.errors import LoadError
from tests.support.checkpoint_folders import edit_json, load, save
from tests.support.tiny_models import random_model, transformers_model

WEIGHTS = "model.safetensors"
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def sound_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("sound"), random_model("llama"))


@pytest.fixture
def folder(sound_folder: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(sound_folder, tmp_path / "model"))


def refusal(folder: Path, file: str = "") -> str:
    """What is wrong with a file, in the one line that names it first."""
    with pytest.raises(LoadError) as refused:
        load(folder)
    message = str(refused.value)
    name = str(folder / file)
    assert message.startswith(f"{name}: ")
    assert "\n" not in message
    assert len(message) < 900
    return message.removeprefix(f"{name}: ")


def change_weights(folder: Path, **changes: Tensor | None) -> None:
    """Replace tensors, or add them; None takes one away."""
    tensors: dict[str, Tensor | None] = {**load_file(folder / WEIGHTS), **changes}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / WEIGHTS, {"format": "pt"})


def write(name: str, text: str) -> Damage:
    return lambda folder: (folder / name).write_text(text)


def cut(name: str, size: int) -> Damage:
    return lambda folder: os.truncate(folder / name, size)


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def edit(**changes: object) -> Damage:
    return lambda folder: edit_json(folder / "config.json", **changes)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 269060552\n"


@pytest.mark.parametrize(
    ("damage", "file", "reason"),
    [
        (cut(WEIGHTS, 20_000), WEIGHTS, "the file is cut short or damaged: its header describes"),
        (cut(WEIGHTS, 100), WEIGHTS, "expected a safetensors file, got one of 100 bytes that is cut short"),
        (cut(WEIGHTS, 0), WEIGHTS, "expected a safetensors file, got one of 0 bytes that is cut short"),
        (write(WEIGHTS, "x" * 5000), WEIGHTS, "expected a safetensors file, got one of 5000 bytes"),
        (remove(WEIGHTS), "", "expected model.safetensors, model.safetensors.index.json or a .gguf file, found none"),
        (write(WEIGHTS, POINTER), WEIGHTS, "this is a pointer of Git LFS, not the file itself; run `git lfs pull`"),
        (write("tokenizer.json", POINTER), "tokenizer.json", "this is a pointer of Git LFS"),
        (write("chat_template.jinja", POINTER), "chat_template.jinja", "this is a pointer of Git LFS"),
        (write("config.json", "{"), "config.json", "expected a JSON object, but it is damaged or cut short at line 1"),
        (write("config.json", ""), "config.json", "expected a JSON object, got an empty file"),
        (write("config.json", "[1]"), "config.json", "expected a JSON object, got a list"),
        (
            write("config.json", "[" * 100_000),
            "config.json",
            "expected a JSON object, got one that is nested too deeply",
        ),
        (write("config.json", "\ufeff{}"), "config.json", "expected a JSON object in UTF-8, got a byte order mark"),
        (
            write("tokenizer.json", "\ufeff{}"),
            "tokenizer.json",
            "expected a JSON object in UTF-8, got a byte order mark",
        ),
        (write("config.json", "{}"), "config.json", "expected a model_type, the name of an architecture, got None"),
        (edit(model_type="no-such"), "config.json", "model_type 'no-such' is not one that transformers"),
        (edit(model_type="t5"), "config.json", "model_type 't5' is not a causal language model; expected one that"),
        (edit(hidden_size="many"), "config.json", "hidden_size: expected a whole number of at least 1"),
        (
            edit(num_hidden_layers=10**9),
            "config.json",
            "num_hidden_layers: expected a whole number of at least 1 and, with files of 30 tensors",
        ),
        (edit(intermediate_size=10**4), "config.json", "it describes a model of"),
        (edit(vocab_size=5000), "config.json", "it describes a model of"),
        (
            edit(quantization_config={"quant_method": "awq"}),
            "config.json",
            "quantization_config: the weights are quantized by awq, which is",
        ),
        (
            edit(quantization={"group_size": 64, "bits": 4}, quantization_config={"group_size": 64, "bits": 4}),
            "config.json",
            "quantization: the weights are quantized by MLX, which is not supported; serve",
        ),
        (
            edit(model_type="gemma3", text_config={"quantization_config": {"quant_method": "fp8"}}),
            "config.json",
            "quantization_config: the weights are quantized by fp8, which is",
        ),
        (write("generation_config.json", "nonsense"), "generation_config.json", "expected a JSON object, but it is"),
        (write("generation_config.json", '{"top_p": 7}'), "generation_config.json", "top_p: input should be less than"),
        (
            write("generation_config.json", '{"eos_token_id": 1.5}'),
            "generation_config.json",
            "eos_token_id: expected a",
        ),
        (
            write("generation_config.json", '{"eos_token_id": "<x>"}'),
            "generation_config.json",
            "eos_token_id: the token",
        ),
        (write("tokenizer.json", '{"version": "1.0"}'), "tokenizer.json", "no tokenizer can be made of it: "),
        (remove("tokenizer.json"), "", "expected a tokenizer.json next to config.json, found none; write one with"),
        (
            write("adapter_model.safetensors", ""),
            "adapter_model.safetensors",
            "an adapter (LoRA) is not supported; merge",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # the damage is a function
)
def test_what_is_wrong_with_a_file_is_reported_in_one_line(
    folder: Path, damage: Damage, file: str, reason: str
) -> None:
    damage(folder)
    message = refusal(folder, file)
    assert message.startswith(reason)
    for word in ("Traceback", "Error:", "torch", "RuntimeError"):
        assert word not in message


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model-00001-of-00002.safetensors"])
def test_an_adapter_without_its_model_is_called_one(name: str, folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / name).write_text("")
    assert refusal(folder, name).startswith("an adapter (LoRA) is not supported; merge it into its model first, with")


def test_code_that_comes_with_a_model_is_not_run(folder: Path) -> None:
    (folder / "own.py").write_text("raise SystemExit('run')")
    edit_json(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config"})
    assert refusal(folder, "config.json").endswith("Code that comes with a model is not run (trust_remote_code)")
    edit_json(folder / "config.json", model_type="llama", auto_map={"AutoModelForCausalLM": "own.Model"})
    assert transformers_model(load(folder)).config.model_type == "llama"


def test_a_sentencepiece_model_alone_is_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    assert refusal(folder, "tokenizer.model").startswith("expected a tokenizer.json; from a SentencePiece model alone")


@pytest.mark.parametrize(
    ("name", "package"),
    [("tiktoken.model", "tiktoken"), ("qwen.tiktoken", "tiktoken"), ("tekken.json", "mistral-common")],
)
def test_a_tokenizer_in_another_form_is_reported_with_the_package_for_it(name: str, package: str, folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / name)
    told = refusal(folder, name)
    assert told.startswith("expected a tokenizer.json; from ")
    assert f"Where the package {package} is installed, write one with" in told


def test_a_tokenizer_that_is_code_of_its_own_is_not_run(folder: Path) -> None:
    changes = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}
    edit_json(folder / "tokenizer_config.json", **changes)
    assert refusal(folder, "tokenizer_config.json").startswith(
        "tokenizer_class 'OwnTokenizer' is code that comes with the model, which is not run (trust_remote_code)"
    )


def test_a_vocabulary_with_merges_needs_the_name_of_a_class(folder: Path) -> None:
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(merge) for merge in model.get("merges", []))
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}")
    (folder / "tokenizer.json").unlink()
    for named in (None, "PreTrainedTokenizerFast"):
        edit_json(folder / "tokenizer_config.json", tokenizer_class=named)
        assert refusal(folder).startswith("of vocab.json and merges.txt a tokenizer is made only where tokenizer_")
    edit_json(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    assert load(folder).tokenizer.vocab_size > 0
    (folder / "merges.txt").write_text(POINTER)
    assert refusal(folder, "merges.txt").startswith("this is a pointer of Git LFS")


@pytest.mark.parametrize("kind", ["su", "mrope"])
def test_a_rotation_of_an_unknown_type_is_reported_under_its_older_name_too(kind: str, folder: Path) -> None:
    edit_json(folder / "config.json", rope_parameters=None, rope_scaling={"type": kind}, rope_theta=10_000.0)
    assert refusal(folder, "config.json").startswith("rope_type: expected one of default, dynamic, linear, llama3")


def test_a_shard_that_is_not_there_is_named(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert refusal(folder, "model.safetensors.index.json").startswith(
        "tensor model.norm.weight should be in 'model-00001-of-00002.safetensors', and there is no such file"
    )


# --- Weights that do not fit their model ------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"num_hidden_layers": 2}, {"tie_word_embeddings": None}], ids=str)
def test_a_layer_more_than_the_config_has_is_refused(folder: Path, change: dict[str, object]) -> None:
    edit_json(folder / "config.json", num_hidden_layers=2)
    assert "the model has no place for 9 tensors of the files, model.layers.2." in refusal(folder)


def test_weights_under_other_names_are_reported_with_both_names(folder: Path) -> None:
    """As a wrapper for training leaves them."""
    weights = load_file(folder / "model.safetensors")
    save_file({f"base_model.{name}": weight for name, weight in weights.items()}, folder / "model.safetensors")
    told = refusal(folder)
    assert told.startswith("30 weights are missing: lm_head.weight, model.embed_tokens.weight, model.layers.0.")
    assert " and 26 more, and 30 others are there, base_model.lm_head.weight for one. " in told


def test_biases_that_the_config_denies_are_refused(folder: Path) -> None:
    change_weights(folder, **{"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)})
    assert "no place for 1 tensors of the files, model.layers.0.self_attn.q_proj.bias for one" in refusal(folder)


def test_scales_of_a_quantization_that_the_config_does_not_mention_are_refused(folder: Path) -> None:
    change_weights(folder, **{"model.layers.0.mlp.up_proj.weight_scale_inv": torch.ones(1)})
    assert "1 tensors look like the scales of a quantization that config.json does not mention" in refusal(folder)


def test_weights_in_eight_bits_are_refused(folder: Path) -> None:
    weight = torch.zeros(48, 32, dtype=torch.int8)
    change_weights(folder, **{"model.layers.0.mlp.up_proj.weight": weight})
    assert "tensor model.layers.0.mlp.up_proj.weight is of type I8: quantized, but" in refusal(folder, WEIGHTS)


@pytest.mark.parametrize("name", ["weight", "qweight"])
def test_weights_of_several_to_a_number_are_no_weights_that_are_missing(name: str, folder: Path) -> None:
    few = load_file(folder / WEIGHTS)
    packed = {key.replace("weight", name): torch.zeros(4, 4, dtype=torch.int32) for key in few if "proj" in key}
    change_weights(folder, **(dict.fromkeys(few) | packed))
    assert re.match(rf"tensor \S+\.{name} is of type I32: quantized, but config.json has no", refusal(folder, WEIGHTS))


@pytest.mark.parametrize("of", [torch.uint8, torch.int8, torch.float8_e4m3fn])
def test_few_bits_are_weights_of_a_quantization_whatever_their_name(of: torch.dtype, folder: Path) -> None:
    change_weights(folder, **{"model.layers.0.mlp.experts.up": torch.zeros(4, 48, 32).to(of)})
    assert refusal(folder, WEIGHTS).startswith("tensor model.layers.0.mlp.experts.up is of type ")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number_is_refused_by_its_tensors_name(folder: Path, bad: float) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    weight = load_file(folder / WEIGHTS)[name]
    weight[5, 7] = bad
    change_weights(folder, **{name: weight})
    assert refusal(folder, WEIGHTS).startswith(f"tensor {name} has a weight that is NaN or infinite")


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(4)),
        ("mtp.layers.0.weight", torch.ones(4)),
        ("visual.patch_embed.weight", torch.ones(4)),
    ],
)
def test_known_leftovers_are_no_reason_to_refuse(folder: Path, name: str, tensor: Tensor) -> None:
    change_weights(folder, **{name: tensor})
    assert transformers_model(load(folder)).config.model_type == "llama"


def test_layers_that_predict_more_tokens_at_once_are_no_reason_to_refuse() -> None:
    settings: dict[str, Any] = {"num_hidden_layers": 3, "num_nextn_predict_layers": 1}
    config = LlamaConfig(**settings)
    assert is_layer_of_mtp("model.layers.3.mlp.up_proj.weight", config)
    assert not is_layer_of_mtp("model.layers.4.mlp.up_proj.weight", config)
    assert not is_layer_of_mtp("model.layers.3.mlp.up_proj.weight", LlamaConfig(num_hidden_layers=3))


def test_masks_that_old_models_saved_are_no_reason_to_refuse(tmp_path: Path) -> None:
    folder = save(tmp_path, random_model("gpt2"))
    mask = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
    change_weights(
        folder, **{"transformer.h.0.attn.bias": mask, "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}
    )
    assert transformers_model(load(folder)).config.model_type == "gpt2"


# --- Precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of_weights", "loaded"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.float64, torch.float32),
    ],
    ids=str,
)
def test_the_precision_is_that_of_the_weights_where_the_config_is_silent(
    folder: Path, of_weights: torch.dtype, loaded: torch.dtype
) -> None:
    change_weights(folder, **{name: tensor.to(of_weights) for name, tensor in load_file(folder / WEIGHTS).items()})
    edit_json(folder / "config.json", dtype=None)
    assert load(folder).model.dtype == loaded


def test_float64_in_the_config_is_computed_with_in_float32(folder: Path) -> None:
    edit_json(folder / "config.json", dtype="float64")
    assert load(folder).model.dtype == torch.float32


# --- What is said -----------------------------------------------------------------------------------------------------


def test_the_whole_of_a_reason_is_shown_not_its_first_line() -> None:
    assert reason(ValueError("Sizes differ:\n  3 here,\n  4 there")) == "Sizes differ: 3 here, 4 there"
    assert reason(ValueError("Field 'a':\n    TypeError: expected int")) == "Field 'a': expected int"
    assert reason(ValueError("x" * 5000)) == "x" * 600 + " …"


@pytest.mark.parametrize(
    "error",
    [AttributeError("'int' object has no attribute 'pop'"), KeyError(), TypeError("object is not iterable")],
)
def test_an_error_of_pythons_own_is_put_into_plain_words(error: Exception) -> None:
    assert reason(error) == "a setting in it has a type or a value that transformers cannot use"


def test_what_transformers_looks_for_and_does_not_find_is_named() -> None:
    assert reason(KeyError("mrope")) == "transformers finds nothing under 'mrope'"
    assert reason(KeyError("Missing required keys: {'factor'}")) == "Missing required keys: {'factor'}"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(13, "Permission denied", "/model/tokenizer.json"), "/model/tokenizer.json: cannot be read: "),
        (MemoryError(), "{folder}: its weights do not fit the memory of cpu"),
    ],
)
def test_what_the_machine_refuses_is_reported_in_one_line(
    folder: Path, error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Folder, "tokenizer", fail)
    with pytest.raises(LoadError) as refused:
        load(folder)
    assert str(refused.value).startswith(reason.format(folder=folder))
